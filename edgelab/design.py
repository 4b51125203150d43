"""A design: which network, how narrow, with how many zeros, in how many bits, with a teacher or without; and its file.

Networks are trained, pruned and taught in PyTorch and written by TensorFlow's converter as .tflite files, the kind that
microcontrollers run. Weights of 4 bits have no such file: they become an .onnx file, whose size is their merit.

Every step is one of the course's, in the order from coarse to fine, and is kept and found again by `zoo`: two designs
that begin alike share what they have in common, and one that was interrupted goes on. The one order that is open is
whether the teacher comes before the channels go or after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgelab import artifact, data, zoo
from edgelab import measure as measuring
from edgelab.artifact import Artifact
from edgelab.data import Dataset
from edgelab.distillation import Distillation, check_teachers
from edgelab.errors import EdgelabError
from edgelab.export import CALIBRATION
from edgelab.ledger import Record
from edgelab.profiles import MODELS, Profile
from edgelab.pruning import Channels, Magnitude
from edgelab.qat import LowBit
from edgelab.zoo import Checkpoint, Made

BITS = (32, 8, 4)
ORDERS = ("prune-first", "teach-first")
TEACHER = "ds_cnn"
LESSON = Distillation()
Watch = Callable[[Checkpoint], None]
"""Given the network so far before each training that removes no channels and after which none does."""


@dataclass(frozen=True)
class Design:
    """What to make of the trained `model`.

    Channels are removed until its MACs have fallen by the factor `speed_up`; with a `teacher` what is left learns from
    the trained TEACHER; the share `sparsity` of the weights becomes zero; the file has `bits` of 32 (float), 8 or 4.
    In the `order` teach-first it is the whole network that learns, before channels are removed.
    Raises EdgelabError, one line, for values and combinations that cannot be.
    """

    model: str
    speed_up: float = 1.0
    sparsity: float = 0.0
    bits: int = 8
    teacher: bool = False
    order: str = "prune-first"

    def __post_init__(self) -> None:
        """Refuse what cannot be, before any work."""
        if self.model not in MODELS:
            raise EdgelabError(f"unknown model {self.model!r}: choose one of {', '.join(MODELS)}")
        Channels(self.speed_up), Magnitude(self.sparsity)
        if type(self.bits) is not int or self.bits not in BITS:
            raise EdgelabError(f"expected 32, 8 or 4 bits, got {self.bits!r}")
        if not isinstance(self.teacher, bool):
            raise EdgelabError(f"expected teacher True or False, got {self.teacher!r}: it is always {TEACHER}")
        if self.order not in ORDERS:
            raise EdgelabError(f"unknown order {self.order!r}: choose one of {', '.join(ORDERS)}")
        if self.sparsity and self.bits < 8:
            raise EdgelabError(f"training to {self.bits} bits moves zeros: choose 8 bits, or sparsity 0")
        teach_first = self.order == "teach-first"
        if teach_first and (self.speed_up == 1 or not self.teacher):
            raise EdgelabError("teach-first is an order of two steps: give a speed_up above 1 and a teacher")
        if self.teacher and self.model == TEACHER and (self.speed_up == 1 or teach_first):
            raise EdgelabError(f"{TEACHER} is the teacher and cannot learn from itself: narrow it, or leave it out")

    @property
    def steps(self) -> list[str]:
        """The fields that ask for a step before the bits, in the order in which these are carried out."""
        first = ["teacher", "speed_up"] if self.order == "teach-first" else ["speed_up", "teacher"]
        return [name for name in [*first, "sparsity"] if getattr(self, name) != getattr(Design, name)]

    @property
    def technique(self) -> str:
        """The steps as the ledger calls them, such as structured_pruning_2x_ptq_int8."""
        channels, zeros = Channels(self.speed_up), Magnitude(self.sparsity)
        names = {"speed_up": channels.technique, "teacher": LESSON.technique, "sparsity": zeros.technique}
        steps = [names[step] for step in self.steps]
        steps += {32: [], 8: ["ptq_int8"], 4: [LowBit(4).technique]}[self.bits]
        return "_".join(steps) or "baseline"

    @property
    def suffix(self) -> str:
        """That of its file."""
        return ".onnx" if self.bits < 8 else ".tflite"

    def in_words(self) -> str:
        """One sentence without a full stop, such as "resnet8, 2x fewer MACs, int8"."""
        words = {
            "speed_up": f"channels removed for {self.speed_up:g}x fewer MACs",
            "teacher": f"taught by {TEACHER}",
            "sparsity": f"{self.sparsity:.0%} of the weights zero",
        }
        parts = [self.model, *(words[step] for step in self.steps)]
        return ", ".join([*parts, {32: "float32", 8: "int8", 4: "weights and activations of 4 bits"}[self.bits]])


def build(
    design: Design, dataset: Dataset, settings: Profile, path: Path | str, watch: Watch | None = None
) -> Artifact:
    """Carry `design` out and write its file to `path`, which ends in `design.suffix`.

    Only training and validation images are looked at. What was trained before, here or among the checkpoints that come
    with edgelab (where `settings` allow), is not trained again. What `watch` raises ends the work. Raises EdgelabError
    for another suffix, or where a step cannot be carried out.
    """
    path = Path(path)
    if path.suffix.lower() != design.suffix:
        raise EdgelabError(f"{design.bits} bits make a {design.suffix} file, got {path.name!r}")
    network = _float(design, dataset, settings, watch)
    if design.bits == 4:
        from edgelab.pytorch import pruning, qat

        if watch:
            watch(network)
        trained = _low_bit(network, dataset, settings)
        return qat.save(qat.from_arrays(pruning.restore(network), trained.arrays), path)
    from edgelab.tensorflow import pruning as keras_pruning

    with artifact.quiet():
        model = keras_pruning.restore(network)
    calibration = None
    if design.bits == 8:
        calibration = dataset.train.images[data.stratified_sample(dataset.train.labels, CALIBRATION)]
    return artifact.save(model, path, calibration, labels=dataset.class_names)


def measure(design: Design, file: Artifact, dataset: Dataset, settings: Profile, chapter: str) -> Record:
    """The ledger record of the `file` that `build` made of `design`, measured on the test images.

    Raises EdgelabError as `measure.measure` does.
    """
    network = _float(design, dataset, settings)
    made = _low_bit(network, dataset, settings) if design.bits == 4 else network
    return measuring.measure(
        file,
        dataset,
        chapter=chapter,
        technique=design.technique,
        model=design.model,
        seed=made.recipe.seed,
        train_seconds=made.meta["train_seconds"],
    )


def _float(design: Design, dataset: Dataset, settings: Profile, watch: Watch | None = None) -> Checkpoint:
    """The network of `design` before its weights get fewer bits."""
    from edgelab.pytorch import pruning

    name, kept = design.model, settings.uses_kept
    made = zoo.load_or_train(name, dataset, settings.recipes[name], kept=kept)
    for number, step in enumerate(design.steps):
        if watch and "speed_up" not in design.steps[number:]:
            watch(made)
        if step == "speed_up":
            plan, recipe = Channels(design.speed_up), settings.retraining[name]
            made = pruning.load_or_prune(made, plan, dataset, recipe, kept=kept)
        elif step == "teacher":
            made = _taught(made, dataset, settings)
        else:
            share, recipe = Magnitude(design.sparsity), settings.fine_tuning[name]
            made = pruning.load_or_prune(made, share, dataset, recipe, kept=kept)
    return made


def _taught(start: Checkpoint, dataset: Dataset, settings: Profile) -> Checkpoint:
    """The network of `start`, trained on under the TEACHER."""
    from edgelab.pytorch import distillation, models, pruning

    kept = settings.uses_kept
    teacher = zoo.load_or_train(TEACHER, dataset, settings.recipes[TEACHER], kept=kept)
    check_teachers([teacher], LESSON, dataset)
    recipe = replace(settings.fine_tuning[start.model], label_smoothing=0.0)

    def make(state_path: Path) -> Made:
        network = pruning.restore(start)
        history = distillation.teach(network, [distillation.restore(teacher)], LESSON, dataset, recipe, state_path)
        return models.to_arrays(network), history

    about = (start.model, [start, teacher], LESSON.technique, "pytorch", dataset, recipe)
    return zoo.load_or_teach(*about, make, kept=kept, earlier=start.meta["train_seconds"])


def _low_bit(start: Checkpoint, dataset: Dataset, settings: Profile) -> Checkpoint:
    """The network of `start`, trained on with weights and activations of 4 bits."""
    from edgelab.pytorch import qat

    plan = LowBit(4)
    recipe = plan.recipe(settings.fine_tuning[start.model])
    return qat.load_or_quantize(start, plan, dataset, recipe, kept=settings.uses_kept)
