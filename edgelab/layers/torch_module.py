"""Counting a torch module with forward hooks: each layer reports what it was given and what it made of it.

Products with a parameter that run outside such layers (in attention, or where a module calls torch.nn.functional) are
counted operator by operator. Recurrent layers are named as uncounted, and nothing inside them is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from edgelab.artifact import TORCH_INPUT
from edgelab.layers.table import DENSE, TRANSPOSED, Builder, Constant, LayerTable, Shape, Work, convolution_kind

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils._python_dispatch import TorchDispatchMode

Handler = Callable[[Any, Constant, "Tensor", "Tensor"], Work]
COPIES = {"clone", "copy", "to_copy", "contiguous", "empty", "unsafe_view"}
RECURRENT = {"RNNBase", "RNNCellBase"}


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


def _matrix(args: tuple[Any, ...], weight: Constant, source: Tensor, made: Tensor) -> Work:
    return Work(DENSE, ((weight, source.numel() * weight.shape[-1] // weight.size),))


def _functional(args: tuple[Any, ...], weight: Constant, source: Tensor, made: Tensor) -> Work:
    stride, transposed, groups = tuple(args[3]), args[6], args[8]
    channels, inputs, *kernel = weight.shape
    kind = TRANSPOSED if transposed else convolution_kind(groups, inputs * groups)
    parts = ((weight, (source if transposed else made).numel() // channels),)
    return Work(kind, parts, tuple(kernel), stride, groups)


class Product(NamedTuple):
    """How an operator is counted and where it takes its input, its weight and its bias; None for no bias."""

    work: Callable[[tuple[Any, ...], Constant, Tensor, Tensor], Work]
    source: int
    weight: int
    bias: int | None = None


PRODUCTS = {
    **dict.fromkeys(("mm", "bmm"), Product(_matrix, 0, 1)),
    **dict.fromkeys(("addmm", "baddbmm"), Product(_matrix, 1, 2, 0)),
    "convolution": Product(_functional, 0, 1, 2),
}


def _class_names(module: nn.Module) -> list[str]:
    """The names of torch's own base classes, so that quantized and fused variants are found too."""
    return [cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.")]


def _handler(module: nn.Module) -> Handler | None:
    return next((HANDLERS[name] for name in _class_names(module) if name in HANDLERS), None)


def _is_whole(module: nn.Module) -> bool:
    """Whether a layer is counted or left out as one, whatever runs inside it."""
    return _handler(module) is not None or not RECURRENT.isdisjoint(_class_names(module))


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


def _base(values: Any) -> Any:
    """The tensor that `values` is a view of."""
    return values if getattr(values, "_base", None) is None else values._base


def _per_image(values: Tensor) -> Shape:
    return tuple(values.shape[1:] if values.shape[0] == 1 else values.shape)


def _first_tensor(values: Any) -> Tensor:
    from torch import Tensor

    while not isinstance(values, Tensor):
        values = next(iter(values.values() if isinstance(values, dict) else values))
    return values


class _Watch:
    """Sees the layers as they are called, and the operators that run outside counted and recurrent layers."""

    def __init__(self, model: nn.Module) -> None:
        self.builder = Builder()
        self.inside = 0
        self.reported: set[nn.Module] = set()
        self.multiplied: set[nn.Module] = set()
        self.names = {of: name for name, of in model.named_modules() if ".parametrizations." not in f".{name}."}
        self.owners = {id(own): of for of in reversed(self.names) for own in of.parameters(recurse=False)}

    def hook(self, stack: ExitStack) -> None:
        """Have the layers report until `stack` is closed."""
        for module in self.names:
            if _is_whole(module):
                stack.callback(module.register_forward_pre_hook(self.enter).remove)
            if _is_whole(module) or not any(True for _ in module.children()):
                stack.callback(module.register_forward_hook(self.leave).remove)
        stack.enter_context(self._watching())

    def enter(self, module: nn.Module, args: object) -> None:
        """Before a layer that is counted, or named as uncounted, as a whole."""
        self.inside += 1

    def leave(self, module: nn.Module, args: object, result: object) -> None:
        """After a layer: add its row, unless its operators have theirs."""
        source, made, handler = _first_tensor(args), _first_tensor(result), _handler(module)
        if module in self.multiplied and not _is_whole(module):
            return
        self.inside += not _is_whole(module)
        shapes = tuple(source.shape[1:]), tuple(made.shape[1:])
        self.reported.add(module)
        own, work = _parameters(module), None
        if handler is not None:
            own = [*_own(module, "weight"), *_own(module, "bias")]
            work = handler(module, own[0], source, made)
        elif _is_whole(module):
            self.builder.uncounted[type(module).__name__] += 1
        self.builder.add(self.names[module], type(module).__name__, shapes, own, 8 * source.element_size(), work)
        self.inside -= 1

    def note(self, func: Any, args: tuple[Any, ...], made: Any) -> None:
        """After one operator: count a product with a parameter, name any other except views and copies."""
        aliases = [result.alias_info for result in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        name = func.overloadpacket.__name__.strip("_")
        if not (self.inside or is_view or name in COPIES or self._multiply(name, args, made)):
            self.builder.uncounted[name] += 1

    def _multiply(self, name: str, args: tuple[Any, ...], made: Any) -> bool:
        """Add a row if the operator's weight is a parameter or a part of one; whether it was."""
        if name not in PRODUCTS:
            return False
        product = PRODUCTS[name]
        weight = args[product.weight]
        if id(_base(weight)) not in self.owners or 0 in weight.stride():
            return False
        bases = [_base(args[place]) for place in (product.weight, product.bias) if place is not None]
        own = [_constant(id(base), base) for base in bases if id(base) in self.owners]
        module, source = self.owners[id(bases[0])], args[product.source]
        work = product.work(args, _constant(own[0].key, weight), source, made)
        shapes = _per_image(source), _per_image(made)
        self.builder.add(self.names[module], type(module).__name__, shapes, own, 8 * source.element_size(), work)
        self.multiplied.add(module)
        return True

    def _watching(self) -> TorchDispatchMode:
        """A context in which torch reports every operator it runs."""
        from torch.utils._python_dispatch import TorchDispatchMode

        note = self.note

        class Watching(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                made = func(*args, **(kwargs or {}))
                note(func, args, made)
                return made

        return Watching()

    def leftovers(self) -> None:
        """A row for every module with parameters that nothing reported, so that none is missing from the total."""
        for module, name in self.names.items():
            own = self.builder.missing(_parameters(module))
            if own and module not in self.reported:
                self.builder.add(name, type(module).__name__, ((), ()), own)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and without attention's fused path, in which no layer is called.

    Every submodule gets its own mode back.
    """
    import torch

    fused = torch.backends.mha.get_fastpath_enabled()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes.items():
            module.training = mode


def count(model: nn.Module, input_shape: Shape | None) -> LayerTable:
    """The table of `model` for one image of `input_shape` (channels, height, width)."""
    import torch

    watch = _Watch(model)
    first = next((values for values in model.parameters() if values.is_floating_point()), torch.zeros(0))
    chosen: Any = input_shape or getattr(model, "input_shape", TORCH_INPUT)
    with _evaluating(model), ExitStack() as stack:
        image = torch.zeros((1, *chosen), dtype=first.dtype, device=first.device)
        watch.hook(stack)
        model(image)
    watch.leftovers()
    return watch.builder.table()
