"""A look at an image folder before anything is trained on it: balance, channels, sizes, copies, images unlike others.

Copies are found by a perceptual hash, the difference hash dHash (N. Krawetz 2013, "Kind of like that"), also turned
and mirrored, and confirmed on small pictures. Images unlike the others of their class are found by a robust z-score:
how far a value is from the median, in units of the median distance from it (Iglewicz and Hoaglin 1993).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from edgelab import _images
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import pandas as pd

SIDE = 32  # pixels a side of the picture that hash and statistics are made of
SMALL = 16  # and of the one on which copies are confirmed
HASH_BITS = 64
MOST_BITS = 10  # that the hashes of two copies may differ in
LEAST_LIKE = 0.99  # correlation of the small pictures of two copies, in grey
LEAST_COLOUR = 0.95  # and of all their channels, which JPEG keeps less well
PLAIN = 2.0  # grey values: an image with less contrast is of a single colour
FAR = 6.0  # robust z-score of an image unlike its class
LEAST_OF_CLASS = 10  # images that a class needs for one of them to be unlike the others
UNBALANCED = 1.5  # largest class to smallest
CHANNELS = ("red", "green", "blue")
STATISTICS = ("brightness", "contrast", "colour", "detail", "distance")
BLOCK, FEW = 512, 10_000  # images that are compared at once; pairs that are sooner compared one by one


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) as uint8 grey values (height, width), by ITU-R BT.601."""
    return (image @ _images.LUMA + 0.5).astype(np.uint8)


def dhash(image: np.ndarray) -> np.ndarray:
    """The difference hash of a uint8 (height, width, 3) image: 64 bits, boolean.

    In grey and 9 x 8 pixels: is a pixel brighter than its left neighbour? Size, compression and brightness change few
    of the answers.
    """
    from PIL import Image

    tiny = np.asarray(Image.fromarray(grey(image)).resize((9, 8), Image.Resampling.BOX), np.int16)
    return (tiny[:, 1:] > tiny[:, :-1]).ravel()


def robust_z(values: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """How far each of the `values` (n,) is from their median, in robust standard deviations, at least `floor`.

    1.4826 times the median distance from the median is the standard deviation of normal values; single extreme values
    do not change it. Where it is 0, values at the median are 0 and all others infinite.
    """
    away = values - np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(away))), floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / spread)


@dataclass(frozen=True)
class Analysis:
    """What was found in an image folder.

    - `images`: a row an image: `file`, `split` (train, test, or all where there is no such layer), `class`, `height`,
      `width`, for each channel `mean` and `variance` of its pixels (such as mean_red; 0..255), and STATISTICS.
    - `copies`: a row a file that has copies: `file`, `split`, `class`, `group` (a number for all copies of one image),
      `kind` (exact: the same pixels; near).
    - `outliers`: a row an image unlike its class: `file`, `split`, `class`, `statistic`, its `value`, the `median` of
      the class and the robust `z`.
    """

    images: pd.DataFrame
    copies: pd.DataFrame
    outliers: pd.DataFrame

    def balance(self) -> pd.DataFrame:
        """A row a class: its number of images in each split, `images` in all, and their `share` of all, 0..1."""
        import pandas as pd

        counts = pd.crosstab(self.images["class"], self.images["split"])
        total = counts.sum(axis=1)
        return counts.assign(images=total, share=total / total.sum()).rename_axis(columns=None).reset_index()

    @property
    def imbalance(self) -> float:
        """Images of the largest class for each of the smallest: 1 where all are equal."""
        counts = self.balance()["images"]
        return float(counts.max() / counts.min())

    def channels(self) -> pd.DataFrame:
        """A row a class, then one for all: mean and variance of each channel, 0..255; every image counts the same."""
        import pandas as pd

        parts = {str(name): part for name, part in self.images.groupby("class")} | {"all": self.images}
        rows = []
        for name, part in parts.items():
            row: dict[str, object] = {"class": name}
            for channel in CHANNELS:
                means = part[f"mean_{channel}"]
                row[f"mean_{channel}"] = float(means.mean())
                row[f"variance_{channel}"] = float(part[f"variance_{channel}"].mean() + means.var(ddof=0))
            rows.append(row)
        return pd.DataFrame(rows)

    def sizes(self) -> pd.DataFrame:
        """Least, median and greatest width, height and aspect (width to height) of the images as they are."""
        sizes = self.images[["width", "height"]].assign(aspect=self.images["width"] / self.images["height"])
        return sizes.agg(["min", "median", "max"]).T.rename_axis("what").reset_index()

    def leaks(self) -> list[str]:
        """Files of the training split with copies in the test split; empty where the folder is not split."""
        tests = set(self.copies.loc[self.copies["split"] == "test", "group"])
        found = self.copies[(self.copies["split"] == "train") & self.copies["group"].isin(tests)]
        return list(found["file"])

    def contradictions(self) -> list[str]:
        """Files with copies in another class: one of the labels must be wrong."""
        classes = self.copies.groupby("group")["class"].transform("nunique")
        return list(self.copies.loc[classes > 1, "file"])

    def plain(self) -> list[str]:
        """Files with images of a single colour."""
        return list(self.images.loc[self.images["contrast"] < PLAIN, "file"])

    def removable(self) -> list[str]:
        """Files that need no second look: surplus copies, all with contradicting labels, images of a single colour.

        Of several copies one is left, in the test split if there is one there.
        """
        wrong = set(self.contradictions())
        in_order = self.copies.sort_values(["group", "split", "file"], key=_test_first)
        surplus = in_order.loc[in_order.duplicated("group"), "file"]
        return sorted(wrong | set(surplus) | set(self.plain()))

    def problems(self) -> list[str]:
        """What was found, a line each; empty where there is nothing to say."""
        found = [self._of_balance(), self._of_copies(), self._of_leaks(), self._of_labels()]
        found += [self._of_plain(), self._of_outliers(), self._of_sizes()]
        return [line for line in found if line]

    def _of_balance(self) -> str:
        if self.imbalance <= UNBALANCED:
            return ""
        counts = self.balance().sort_values("images", kind="stable")
        least, most = counts.iloc[0], counts.iloc[-1]
        return (
            f"unbalanced: {most['class']!r} has {most['images']} images, {least['class']!r} {least['images']} "
            f"({self.imbalance:.1f} times as many): read the accuracy by class"
        )

    def _of_copies(self) -> str:
        if self.copies.empty:
            return ""
        groups, kinds = self.copies["group"].nunique(), self.copies["kind"].value_counts()
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"copies: {groups} image(s) there more than once ({counts} copies in all), such as {self._pair(0)}"

    def _pair(self, group: int) -> str:
        return " and ".join(self.copies.loc[self.copies["group"] == group, "file"].iloc[:2])

    def _of_leaks(self) -> str:
        leaks = self.leaks()
        return f"leak: {len(leaks)} training image(s) have copies among the test images" if leaks else ""

    def _of_labels(self) -> str:
        wrong = self.contradictions()
        return (
            f"contradiction: {len(wrong)} copies of one image in different classes, such as {wrong[0]}" if wrong else ""
        )

    def _of_plain(self) -> str:
        plain = self.plain()
        return f"empty: {len(plain)} image(s) of a single colour, such as {plain[0]}" if plain else ""

    def _of_outliers(self) -> str:
        if self.outliers.empty:
            return ""
        files, first = self.outliers["file"].nunique(), self.outliers.iloc[0]
        told = f"{first['statistic']} {first['value']:.0f}, median {first['median']:.0f}"
        return f"outliers: {files} image(s) unlike their class, such as {first['file']} ({told}): look at them"

    def _of_sizes(self) -> str:
        width, height, aspect = self.sizes().set_index("what").to_dict("index").values()
        if aspect["max"] < 1.2 * aspect["min"]:
            return ""
        spread = f"{width['min']:.0f}x{height['min']:.0f} to {width['max']:.0f}x{height['max']:.0f} pixels"
        shapes = f"{aspect['min']:.2f} to {aspect['max']:.2f} times as wide as high"
        return f"sizes: {spread}, {shapes}: all are squeezed to one shape, here and in edgelab predict"


def _test_first(column: pd.Series) -> pd.Series:
    return column.ne("test") if column.name == "split" else column


def analyse(path: str | Path, *, turned: bool = True, alike: float = LEAST_LIKE) -> Analysis:
    """Look at every image of the folder or archive at `path`, laid out as `data.load` takes it.

    Nothing is changed, and nothing resized before means, variances and sizes are taken. With `turned` copies are found
    in any of eight positions too: not where these differ in meaning, as of digits. `alike` is the correlation, 0..1,
    from which two images are copies: nearer to 1 where all images are alike, such as grains on black.

    Comparing all with all takes seconds for ten thousand images, minutes for a hundred thousand. Raises EdgelabError as
    `data.load` does, and for another `alike`.
    """
    import pandas as pd

    if not 0 < alike < 1:
        raise EdgelabError(f"expected alike, a correlation, between 0 and 1, got {alike!r}: 0.99 is usual")

    path = Path(path).expanduser()
    rows: dict[_images.Parts, dict[str, object]] = {}
    seen: dict[_images.Parts, tuple[np.ndarray, np.ndarray]] = {}
    folders = set()
    members = _images.members(path)
    with _images.named(path):
        for parts, content in members:
            if content is None:
                folders.add(parts)
                continue
            rows[parts], seen[parts] = _described(np.asarray(_images.upright(content, "/".join(parts))))
        places = _images.arranged(rows, folders, is_whole=True)
    order = [parts for *_, parts in places]
    named = [{"file": "/".join(parts), "split": split, "class": label} for split, label, parts in places]
    images = pd.DataFrame([name | rows[parts] for name, parts in zip(named, order, strict=True)])
    small = np.stack([seen[parts][0] for parts in order])
    hashes = np.stack([seen[parts][1] for parts in order])
    images["distance"] = _distances(small, images["class"].to_numpy())
    copies = _copies(images, small, hashes[:, : 8 if turned else 1], alike)
    return Analysis(images.drop(columns="digest"), copies, _outliers(images))


def _described(pixels: np.ndarray) -> tuple[dict[str, object], tuple[np.ndarray, np.ndarray]]:
    """The row of an image, and its small picture (SMALL, SMALL, 3) and the hashes (8, 64) of its eight positions."""
    from PIL import Image

    whole = Image.fromarray(pixels)
    medium = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BOX))
    tiny = np.asarray(whole.resize((SMALL, SMALL), Image.Resampling.BOX))
    values = grey(medium).astype(np.float32)
    flat = pixels.reshape(-1, 3)
    row: dict[str, object] = {"height": pixels.shape[0], "width": pixels.shape[1]}
    row |= {f"mean_{channel}": float(mean) for channel, mean in zip(CHANNELS, flat.mean(0), strict=True)}
    row |= {f"variance_{channel}": float(v) for channel, v in zip(CHANNELS, flat.var(0, dtype=np.float64), strict=True)}
    steps = [np.abs(np.diff(values, axis=axis)).mean() for axis in (0, 1)]
    row |= {"brightness": float(flat.mean()), "contrast": float(values.std())}
    row |= {"colour": float(np.ptp(medium.astype(np.int16), axis=2).mean()), "detail": float(np.mean(steps))}
    row["digest"] = hashlib.blake2b(f"{pixels.shape}".encode() + pixels.tobytes(), digest_size=16).hexdigest()
    return row, (tiny, np.stack([dhash(turned) for turned in positions(medium)]))


def positions(image: np.ndarray) -> Iterator[np.ndarray]:
    """The eight ways to lay a square `image` (side, side, channels): turned by quarters, and each of these mirrored."""
    for quarters in range(4):
        turned = np.rot90(image, quarters)
        yield from (turned, turned[:, ::-1])


def _distances(small: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far each small picture is from the mean of its class: root mean square, grey values."""
    away = np.empty(len(small))
    for label in np.unique(labels):
        members = small[labels == label].astype(np.float32)
        away[labels == label] = np.sqrt(np.square(members - members.mean(0)).mean((1, 2, 3)))
    return away


def _outliers(images: pd.DataFrame) -> pd.DataFrame:
    """The images of which one of STATISTICS is far from its class, at the one farthest; the farthest image first."""
    import pandas as pd

    rows = []
    for _, part in images.groupby("class"):
        if len(part) < LEAST_OF_CLASS:
            continue
        scores = np.stack([robust_z(part[name].to_numpy(), floor=1.0) for name in STATISTICS], 1)
        for at in np.flatnonzero((np.abs(scores) > FAR).any(1)):
            worst = int(np.abs(scores[at]).argmax())
            name, one = STATISTICS[worst], part.iloc[at]
            about = {"statistic": name, "value": float(one[name]), "median": float(part[name].median())}
            rows.append({**one[["file", "split", "class"]], **about, "z": float(scores[at, worst])})
    columns = ["file", "split", "class", "statistic", "value", "median", "z"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values("z", key=abs, ascending=False, ignore_index=True)


def _copies(images: pd.DataFrame, small: np.ndarray, hashes: np.ndarray, alike: float) -> pd.DataFrame:
    """The images that have copies, groups of copies of one image numbered in the order in which they come."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    numbers = np.arange(len(images))
    twins = images.groupby("digest")["file"].transform("size").to_numpy()
    same = images.groupby("digest", sort=False).ngroup().to_numpy()
    leader = np.unique(same, return_index=True)[1][same]
    pairs = np.concatenate([_near(small, hashes, alike), np.stack([numbers, leader], 1)])
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(images),) * 2)
    group = connected_components(links, directed=False)[1]
    found = images.loc[np.bincount(group)[group] > 1, ["file", "split", "class"]].copy()
    kept = found.index.to_numpy()
    found["group"] = np.unique(group[kept], return_inverse=True)[1]
    found["kind"] = np.where(twins[kept] > 1, "exact", "near")
    return found.sort_values(["group", "file"], ignore_index=True)


def _near(small: np.ndarray, hashes: np.ndarray, alike: float) -> np.ndarray:
    """Pairs (m, 2) of images that are alike, the first of them in any position that `hashes` (n, p, 64) has.

    By their hashes, then by the correlation of their grey values, `alike`, then by that of all channels.
    """
    signs = hashes.astype(np.float32) * 2 - 1
    shades, colours = _standardised(np.stack([grey(picture) for picture in small])[..., None]), _standardised(small)
    found = [np.zeros((0, 2), np.int64)]
    for start in tqdm(range(0, len(small), BLOCK), "comparing images", unit="block", delay=1):
        block = slice(start, start + BLOCK)
        sides = zip(range(hashes.shape[1]), _turned(shades[block]), _turned(colours[block]), strict=False)
        for position, in_grey, in_colour in sides:
            differing = (HASH_BITS - signs[block, position] @ signs[start:, 0].T) / 2
            left, right = np.nonzero(differing <= MOST_BITS)
            pairs = np.stack([left, right], 1)[left < right]
            pairs = _alike(in_grey, shades[start:], pairs, alike)
            pairs = _alike(in_colour, colours[start:], pairs, LEAST_COLOUR)
            found.append(start + pairs)
    return np.concatenate(found)


def _turned(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """All `pictures` (n, side, side, channels) in each of their eight positions."""
    return (turned.transpose(2, 0, 1, 3) for turned in positions(pictures.transpose(1, 2, 0, 3)))


def _standardised(pictures: np.ndarray) -> np.ndarray:
    """The pictures (n, side, side, channels) with mean 0 and length 1, channels together; 0 where one is plain."""
    values = pictures.astype(np.float32)
    values -= values.mean((1, 2, 3), keepdims=True)
    spread = values.std((1, 2, 3), keepdims=True)
    return np.where(spread < PLAIN, 0.0, values / np.maximum(spread, 1e-9) / math.prod(values.shape[1:]) ** 0.5)


def _alike(left: np.ndarray, right: np.ndarray, pairs: np.ndarray, least: float) -> np.ndarray:
    """Those of the `pairs` (m, 2), numbers in `left` and `right`, whose correlation is above `least`."""
    rows, columns = left.reshape(len(left), -1), right.reshape(len(right), -1)
    if len(pairs) < FEW:
        correlation = (rows[pairs[:, 0]] * columns[pairs[:, 1]]).sum(1)
    else:
        correlation = (rows @ columns.T)[pairs[:, 0], pairs[:, 1]]
    return pairs[correlation > least]
