"""What a sweep searches, and its file."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgelab import data, profiles
from edgelab.data import Dataset
from edgelab.design import Design
from edgelab.errors import EdgelabError
from edgelab.profiles import PROFILES, Profile

SAMPLERS = ("tpe", "random")
STEPS = ("recipes", "retraining", "fine_tuning")
FIELDS = tuple(one.name for one in fields(Design))


@dataclass(frozen=True)
class Config:
    """A sweep over `designs`, of which `trials` are tried, chosen by `sampler` beginning from `seed`.

    `epochs` shortens the trainings of the profile: {"retraining": 2} has channels removed with 2 epochs after it. The
    trials are kept in the database `storage`, a URL; by default in a file beside the results. Processes that use the
    same `storage` and the same `study` work together.
    """

    study: str
    designs: tuple[Design, ...]
    trials: int
    profile: str = "ci"
    data: str | None = None
    storage: str | None = None
    seed: int = 0
    sampler: str = "tpe"
    epochs: Mapping[str, int] = field(default_factory=dict)

    @property
    def goal(self) -> int:
        """How many designs are tried: `trials`, or all where there are no more."""
        return min(self.trials, len(self.designs))

    @property
    def space(self) -> dict[str, tuple[Any, ...]]:
        """The values of each field of the designs."""
        return {name: tuple(dict.fromkeys(getattr(one, name) for one in self.designs)) for name in FIELDS}

    @property
    def identity(self) -> str:
        """A hash over what all processes of a study have to agree on."""
        agreed = [self.profile, self.data, dict(self.epochs), [asdict(one) for one in self.designs]]
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:12]

    def settings(self) -> Profile:
        """The profile, with its trainings as short as `epochs` says."""
        settings = profiles.get(self.profile)
        shorter: dict[str, Any] = {
            step: {name: replace(recipe, epochs=most) for name, recipe in getattr(settings, step).items()}
            for step, most in self.epochs.items()
        }
        return replace(settings, **shorter)

    def dataset(self) -> Dataset:
        """The images; those of a folder or archive in the size the networks take."""
        name = self.data or profiles.get(self.profile).data
        return data.load(name, image_size=32 if Path(name).expanduser().exists() else None)


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _is_epochs(value: object) -> bool:
    return isinstance(value, dict) and all(key in STEPS and _is_whole(most, 1) for key, most in value.items())


Check = tuple[Callable[[Any], bool], str]
KEYS: dict[str, Check] = {
    "study": (
        lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w.-]{1,80}", value)),
        "a name of letters, digits, dots, dashes and underscores",
    ),
    "space": (
        lambda value: bool(value) and isinstance(value, dict | list),
        "lists of values such as `model: [resnet8]`, or several such groups",
    ),
    "trials": (lambda value: _is_whole(value, 1), "a whole number from 1 up"),
    "profile": (lambda value: value in [*PROFILES], f"one of {', '.join(PROFILES)}"),
    "data": (lambda value: isinstance(value, str), "the name of a data set or the path of an image folder"),
    "storage": (lambda value: isinstance(value, str), "a URL such as postgresql+psycopg://user@host/database"),
    "seed": (lambda value: _is_whole(value, 0), "a whole number from 0 up"),
    "sampler": (lambda value: value in SAMPLERS, f"one of {', '.join(SAMPLERS)}"),
    "epochs": (_is_epochs, f"a whole number from 1 up for any of {', '.join(STEPS)}, such as {{fine_tuning: 2}}"),
}
NEEDED = ("study", "space", "trials")


def read(path: Path | str) -> Config:
    """The sweep in the YAML file `path`.

    Raises EdgelabError, one line naming the key, for what is missing, unknown or cannot be.
    """
    path = Path(path)
    found = _loaded(path)
    for key, value in found.items():
        if key not in KEYS:
            raise EdgelabError(f"{path}: unknown key {key!r}: choose among {', '.join(KEYS)}")
        fits, expected = KEYS[key]
        if not fits(value):
            raise EdgelabError(f"{path}, {key}: expected {expected}, got {value!r}")
    for key in NEEDED:
        if key not in found:
            raise EdgelabError(f"{path}: {key} is missing: expected {KEYS[key][1]}")
    groups = found.pop("space")
    groups = groups if isinstance(groups, list) else [groups]
    designs = dict.fromkeys(one for group in groups for one in _designs(group, path))
    return Config(designs=tuple(designs), **found)


def _loaded(path: Path) -> dict[Any, Any]:
    """The keys and values in the file."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgelabError(f"{path} cannot be read ({error.strerror}): name the YAML file of a sweep") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise EdgelabError(f"{path} is no YAML{where}: write it as `key: value` lines") from None
    if not isinstance(found, dict):
        raise EdgelabError(f"{path}: expected `key: value` lines with the keys {', '.join(KEYS)}")
    return found


def _designs(group: object, path: Path) -> list[Design]:
    """All designs that can be with the values of one group; every value has to be in one of them."""
    if not isinstance(group, dict):
        raise EdgelabError(f"{path}, space: expected {KEYS['space'][1]}, got {group!r}")
    for key, values in group.items():
        if key not in FIELDS:
            raise EdgelabError(f"{path}, space: unknown key {key!r}: choose among {', '.join(FIELDS)}")
        if not isinstance(values, list) or not values:
            raise EdgelabError(f"{path}, space.{key}: expected a list of values such as [{values}], got {values!r}")
    if "model" not in group:
        raise EdgelabError(f"{path}, space: model is missing: write such as `model: [resnet8]`")
    possible, problems = [], {}
    for chosen in itertools.product(*group.values()):
        try:
            possible.append(Design(**dict(zip(group, chosen, strict=True))))
        except EdgelabError as problem:
            problems[str(problem)] = chosen
    if not possible:
        raise EdgelabError(f"{path}, space: no design with these values can be: {next(iter(problems))}")
    for place, (key, values) in enumerate(group.items()):
        for value in values:
            if not any(getattr(one, key) == value for one in possible):
                why = next(problem for problem, chosen in problems.items() if chosen[place] == value)
                raise EdgelabError(f"{path}, space.{key}: {value!r} is in no design that can be: {why}")
    return possible
