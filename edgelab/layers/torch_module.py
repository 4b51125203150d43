"""Counting a torch module with forward hooks: each layer reports what it was given and what it made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgelab.artifact import TORCH_INPUT
from edgelab.layers.table import DENSE, TRANSPOSED, Builder, Constant, LayerTable, Shape, Work, convolution_kind

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils._python_dispatch import TorchDispatchMode

Handler = Callable[[Any, Constant, "Tensor", "Tensor"], Work]
COPIES = {"clone", "copy", "to_copy", "contiguous", "empty", "unsafe_view"}


def _convolution(module: Any, weight: Constant, source: Tensor, result: Tensor) -> Work:
    kind = convolution_kind(module.groups, module.in_channels)
    positions = result.numel() // module.out_channels
    return Work(kind, ((weight, positions),), module.kernel_size, module.stride, module.groups)


def _transposed(module: Any, weight: Constant, source: Tensor, result: Tensor) -> Work:
    positions = source.numel() // module.in_channels
    return Work(TRANSPOSED, ((weight, positions),), module.kernel_size, module.stride, module.groups)


def _linear(module: Any, weight: Constant, source: Tensor, result: Tensor) -> Work:
    return Work(DENSE, ((weight, source.numel() // module.in_features),))


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _convolution),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _transposed),
    "Linear": _linear,
}


def _handler(module: nn.Module) -> Handler | None:
    """By the names of torch's own base classes, so that quantized and fused variants are found too."""
    names = (cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch."))
    return next((HANDLERS[name] for name in names if name in HANDLERS), None)


def _constant(key: object, values: Tensor) -> Constant:
    import torch

    stored = values.detach().int_repr() if values.is_quantized else values.detach()
    if values.is_quantized and values.qscheme() == torch.per_tensor_affine:
        stored = stored.int() - values.q_zero_point()
    return Constant(key, tuple(values.shape), values.numel(), int(stored.count_nonzero()), 8 * values.element_size())


def _own(module: nn.Module, name: str) -> list[Constant]:
    """The weight or bias of a counted layer as it is used (masked, fake-quantized), known by the parameter it has."""
    from torch import Tensor, nn

    values = getattr(module, name, None)
    values = values() if callable(values) else values
    if not isinstance(values, Tensor):
        return []
    return [_constant(id(values) if isinstance(values, nn.Parameter) else (id(module), name), values)]


def _parameters(module: nn.Module) -> list[Constant]:
    return [_constant(id(values), values) for values in module.parameters(recurse=False)]


class _Operators:
    """Names the operators that run outside counted layers, but not views and copies, which compute nothing."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.inside = 0

    def note(self, func: Any) -> None:
        """Take down one operator of torch."""
        aliases = [result.alias_info for result in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        name = func.overloadpacket.__name__.strip("_")
        if not self.inside and not is_view and name not in COPIES:
            self.names[name] += 1

    def watching(self) -> TorchDispatchMode:
        """A context in which torch reports every operator it runs."""
        from torch.utils._python_dispatch import TorchDispatchMode

        note = self.note

        class Watching(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                note(func)
                return func(*args, **(kwargs or {}))

        return Watching()


def _first_tensor(values: Any) -> Tensor:
    from torch import Tensor

    while not isinstance(values, Tensor):
        values = next(iter(values.values() if isinstance(values, dict) else values))
    return values


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule gets its own mode back."""
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _leftovers(model: nn.Module, builder: Builder, reported: set[nn.Module]) -> None:
    """A row for every module with parameters that no hook reported, so that none is missing from the total."""
    for name, module in model.named_modules():
        own = _parameters(module)
        if own and module not in reported and ".parametrizations." not in f".{name}.":
            builder.add(name, type(module).__name__, ((), ()), own)


def count(model: nn.Module, input_shape: Shape | None) -> LayerTable:
    """The table of `model` for one image of `input_shape` (channels, height, width)."""
    import torch

    builder, operators, reported = Builder(), _Operators(), set[Any]()
    names = {module: name for name, module in model.named_modules() if ".parametrizations." not in f".{name}."}

    def enter(module: nn.Module, args: object) -> None:
        operators.inside += 1

    def leave(module: nn.Module, args: object, result: object) -> None:
        source, made, handler = _first_tensor(args), _first_tensor(result), _handler(module)
        shapes = tuple(source.shape[1:]), tuple(made.shape[1:])
        reported.add(module)
        if handler is None:
            operators.inside += 1
            own, work = _parameters(module), None
        else:
            own = [*_own(module, "weight"), *_own(module, "bias")]
            work = handler(module, own[0], source, made)
        builder.add(names[module], type(module).__name__, shapes, own, 8 * source.element_size(), work)
        operators.inside -= 1

    first = next((values for values in model.parameters() if values.is_floating_point()), torch.zeros(0))
    chosen: Any = input_shape or getattr(model, "input_shape", TORCH_INPUT)
    with ExitStack() as stack:
        for module in names:
            if _handler(module):
                stack.callback(module.register_forward_pre_hook(enter).remove)
            if _handler(module) or not any(True for _ in module.children()):
                stack.callback(module.register_forward_hook(leave).remove)
        with _evaluating(model):
            image = torch.zeros((1, *chosen), dtype=first.dtype, device=first.device)
            with operators.watching():
                model(image)
    _leftovers(model, builder, reported)
    builder.uncounted.update(operators.names)
    return builder.table()
