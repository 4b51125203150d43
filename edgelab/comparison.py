"""Two model files on the same images: what changed, how sure that is, and in which classes.

Both files see every image, so the images pair their answers. Only those that exactly one of the two gets right say
which is better; that tells much smaller differences apart than two intervals side by side. All of it is about these two
files: how far another training run would differ is another question (Dietterich 1998, Neural Comput. 10:1895-1923).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from edgelab.errors import EdgelabError
from edgelab.measure import CONFIDENCE, Accuracy, predictions, wilson

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Confusion", "against", "compare", "confusion", "per_class_drop", "predictions"]

SIGNIFICANT = 0.05
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
STEPS = 60
POINTS = {"points": "difference", "low": "low", "high": "high"}


@dataclass(frozen=True)
class Comparison:
    """Two files on `n` images: how many both, one only, or neither classified correctly.

    `agreement` is the share of images given the same class, right or wrong. `difference` is the accuracy of the other
    file less that of the reference, -1..1, with its 95 % interval from `low` to `high`; `p_value` is that of McNemar's
    exact test, two-sided. Images that only the reference gets right are lost, those that only the other does gained.
    """

    n: int
    both_right: int
    only_reference: int
    only_other: int
    both_wrong: int
    agreement: float
    difference: float
    low: float
    high: float
    p_value: float

    def sentence(self, reference_name: str = "the reference", other_name: str = "the other file") -> str:
        """What was found, in percentage points; where it is not significant, what drop the interval still allows."""
        digits = self._decimals()
        side = "below" if self.difference < 0 else "above"
        standing = f"is {100 * abs(self.difference):.{digits}f} points {side}" if self.difference else "is level with"
        return (
            f"{other_name} {standing} {reference_name} "
            f"(95 % interval {100 * self.low:+.{digits}f} to {100 * self.high:+.{digits}f}); of {self.n:,} images "
            f"it lost {self.only_reference:,} and gained {self.only_other:,}; "
            f"McNemar's exact test gives {_told(self.p_value)}: {self._verdict(digits)}"
        )

    def _decimals(self) -> int:
        """Two, or as many as it takes to show on which side of zero each number lies."""
        values = [100 * value for value in (self.difference, self.low, self.high) if value]
        return next((digits for digits in range(2, 9) if all(round(value, digits) for value in values)), 9)

    def _verdict(self, digits: int) -> str:
        change = "difference" if not self.difference else "drop" if self.difference < 0 else "gain"
        if self.p_value < SIGNIFICANT:
            return f"the {change} is significant at the 5 % level"
        found = f"no significant {change} was found"
        allowed = f"a drop of up to {-100 * self.low:.{digits}f} points is not ruled out"
        if self.low < 0 < self.high:
            return f"{found}, but {allowed}"
        borderline = f"{found}, but the interval leaves out 0: a borderline case"
        return f"{borderline}, and {allowed}" if self.low < 0 else borderline


def compare(reference: np.ndarray, other: np.ndarray, labels: np.ndarray) -> Comparison:
    """Compare the predicted classes of two files, `reference` and `other`, with the `labels`: integers (n,) each.

    The interval is Tango's score interval, which keeps its promise where few images changed sides, see `_interval`.
    McNemar's exact test asks whether as many images were lost as gained, see `_exact_p`.
    Raises EdgelabError where the three are not flat arrays of integers of one length >= 1.
    """
    reference, other, labels = _class_numbers(reference=reference, other=other, labels=labels)
    right, other_right = reference == labels, other == labels
    lost, gained = int((right & ~other_right).sum()), int((~right & other_right).sum())
    low, high = _interval(lost, gained, len(labels))
    return Comparison(
        n=len(labels),
        both_right=int((right & other_right).sum()),
        only_reference=lost,
        only_other=gained,
        both_wrong=int((~right & ~other_right).sum()),
        agreement=float((reference == other).mean()),
        difference=(gained - lost) / len(labels),
        low=low,
        high=high,
        p_value=_exact_p(lost, gained),
    )


def against(reference: np.ndarray, others: Mapping[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """`compare` of several files with one `reference`, one row a file, in percentage points and percent.

    Columns: `file`, the key in `others`; `points`, the difference in accuracy, with its 95 % interval from `low` to
    `high`; images `lost` and `gained`; `same class`, the share of images given the same class, percent; `p` of
    McNemar's exact test, and `p_holm`, which allows for the number of files.
    Raises EdgelabError where `compare` does.
    """
    import pandas as pd

    rows = []
    for name, predicted in others.items():
        found = compare(reference, predicted, labels)
        points = {key: 100 * getattr(found, value) for key, value in POINTS.items()}
        rows.append({"file": name, **points, "lost": found.only_reference, "gained": found.only_other})
        rows[-1] |= {"same class": 100 * found.agreement, "p": found.p_value}
    columns = ["file", *POINTS, "lost", "gained", "same class", "p"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_holm=_holm(frame["p"].to_numpy(float)))


def _class_numbers(**arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays, once they are known to hold one class number for each of the same images."""
    checked = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in checked.items():
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            shape = "x".join(map(str, array.shape)) or "no"
            wanted = "expected a class number for every image, a flat array of integers"
            raise EdgelabError(f"{wanted}, got {array.dtype} of shape {shape} for {name}: take the argmax of logits")
    lengths = {name: len(array) for name, array in checked.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{length} for {name}" for name, length in lengths.items())
        raise EdgelabError(f"expected class numbers of the same images, got {got}: predict one split with both files")
    if not any(lengths.values()):
        raise EdgelabError("expected at least one image to compare on, got none")
    return list(checked.values())


def _interval(lost: int, gained: int, n: int) -> tuple[float, float]:
    """The 95 % score interval (low, high) of the true difference in accuracy when `gained` - `lost` of `n` were seen.

    It holds every difference that a score test does not reject. Tango 1998, Stat. Med. 17:891-908; recommended also for
    few pairs by Fagerland, Lydersen and Laake 2014, Stat. Med. 33:2850-2875. Found by bisection.
    """
    ends = []
    for bound in (-1.0, 1.0):
        inside, outside = (gained - lost) / n, bound
        for _ in range(STEPS):
            middle = (inside + outside) / 2
            if _is_rejected(middle, lost, gained, n):
                outside = middle
            else:
                inside = middle
        ends.append(inside)
    return ends[0], ends[1]


def _is_rejected(difference: float, lost: int, gained: int, n: int) -> bool:
    """Whether Tango's score test finds the counts too far from a true `difference`.

    `loss` is the most likely share of images lost under it: the larger root of a quadratic equation.
    """
    linear = (2 * n + lost - gained) * difference - lost - gained
    root = math.sqrt(max(0.0, linear * linear + 8 * n * lost * difference * (1 - difference)))
    loss = (root - linear) / (4 * n)
    variance = n * (2 * loss + difference * (1 - difference))
    return (gained - lost - n * difference) ** 2 > Z * Z * variance


def _exact_p(lost: int, gained: int) -> float:
    """The two-sided p of McNemar's exact test: were an image as likely lost as gained, how odd is this split?

    McNemar 1947, Psychometrika 12:153-157; for two classifiers Dietterich 1998, Neural Comput. 10:1895-1923. It errs on
    the side of caution (Fagerland, Lydersen and Laake 2013, BMC Med. Res. Methodol. 13:91). 1 where nothing changed.
    """
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def _told(p_value: float) -> str:
    """Such as "p = 0.08": two digits, or as many as it takes to see whether it is below 0.05."""
    if p_value < 0.001:
        return "p < 0.001"
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 17))
    side = p_value < SIGNIFICANT
    return "p = " + next((text for text in texts if (float(text) < SIGNIFICANT) == side), str(p_value))


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often images of every class were taken for every other.

    `matrix` int64 (classes, classes): images of the class in row i that were taken for the class in column j.
    """

    matrix: np.ndarray
    class_names: tuple[str, ...]

    @property
    def recalls(self) -> tuple[Accuracy | None, ...]:
        """The share of every class's images that was recognised, with its 95 % Wilson interval; None without images."""
        pairs = zip(self.matrix.diagonal().tolist(), self.matrix.sum(1).tolist(), strict=True)
        return tuple(Accuracy(right, n, right / n, *wilson(right, n)) if n else None for right, n in pairs)

    @property
    def most_frequent(self) -> tuple[str, str, int]:
        """The most frequent confusion: true class, predicted class and how often (0 where none was)."""
        wrong = self.matrix - np.diag(self.matrix.diagonal())
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return self.class_names[row], self.class_names[column], int(wrong[row, column])

    def to_frame(self) -> pd.DataFrame:
        """One row a true class: its images, how many were taken for which class, recall (0..1) with its interval."""
        import pandas as pd

        frame = pd.DataFrame(self.matrix, columns=[f"as {name}" for name in self.class_names])
        frame.insert(0, "class", list(self.class_names))
        frame.insert(1, "images", self.matrix.sum(1))
        values = [(r.value, r.low, r.high) if r else (math.nan,) * 3 for r in self.recalls]
        frame[["recall", "low", "high"]] = values
        return frame


def confusion(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Confusion:
    """The confusion matrix of the `predicted` classes against the `labels`, integers (n,) each.

    Raises EdgelabError where they are not flat arrays of integers of one length >= 1, or name a class that
    `class_names` does not have.
    """
    predicted, labels = _class_numbers(predicted=predicted, labels=labels)
    classes = len(class_names)
    for name, array in (("predicted", predicted), ("labels", labels)):
        outside = array[(array < 0) | (array >= classes)]
        if len(outside):
            wanted = f"class numbers from 0 to {classes - 1}, one for each of {classes} names"
            raise EdgelabError(f"expected {wanted}, got {outside[0]} in {name}: give the names of all classes")
    counts = np.bincount(labels.astype(np.int64) * classes + predicted.astype(np.int64), minlength=classes**2)
    return Confusion(counts.reshape(classes, classes).astype(np.int64), tuple(class_names))


def per_class_drop(
    reference: np.ndarray, other: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """`compare` within every class, one row a class: the whole may stand still while classes trade places.

    Columns: `class`, `n` images, accuracy of `reference` and of `other` (0..1), `difference` of the two, images `lost`
    and `gained`, `p` of McNemar's exact test, and `p_holm`: as one of many classes always comes out worst by chance,
    judge by this one (Holm 1979, Scand. J. Stat. 6:65-70). A class without images has no accuracy and no p.
    Raises EdgelabError where `compare` or `confusion` does.
    """
    import pandas as pd

    both = [confusion(predicted, labels, class_names).recalls for predicted in (reference, other)]
    rows = []
    for number, (name, before, after) in enumerate(zip(class_names, *both, strict=True)):
        row: dict[str, object] = {"class": name, "n": 0, "lost": 0, "gained": 0}
        if before and after:
            members = np.asarray(labels) == number
            found = compare(*(np.asarray(array)[members] for array in (reference, other, labels)))
            row |= {"n": found.n, "reference": before.value, "other": after.value, "difference": found.difference}
            row |= {"lost": found.only_reference, "gained": found.only_other, "p": found.p_value}
        rows.append(row)
    columns = ["class", "n", "reference", "other", "difference", "lost", "gained", "p"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_holm=_holm(frame["p"].to_numpy(float)))


def _holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values; NaN, which stands for "not tested", stays and does not count."""
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    adjusted = np.full(len(p_values), math.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    return adjusted
