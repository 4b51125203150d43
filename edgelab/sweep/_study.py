"""The trials of a sweep: who tries what next, what became of it, and what is worth having.

Any number of processes share one study in a database. Three rules keep them from each other's way, whichever of them is
killed and whenever:

- A trial belongs to its design as soon as the design is written down, which is before any work. Whoever then reads that
  another has it too lets go and draws again, so that no design is tried twice.
- While it works, a process writes a sign of life every HEARTBEAT seconds. A trial without one for GRACE seconds is
  lost. A lost design is drawn before any other, RETRIES times at most: what kills every process that tries it (by
  taking too much memory, say) must not go on for ever.
- What is done is counted in the database. A process that finds nothing to begin waits for what others have begun, for
  it may yet be lost.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, NamedTuple

import optuna
from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from tqdm import tqdm

from edgelab.design import Design
from edgelab.errors import EdgelabError
from edgelab.sweep._config import FIELDS, Config

DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize", "minimize")
HEARTBEAT = 10
GRACE = 60
RETRIES = 3
MARGIN = 0.05
DRAWS = 8
WAIT = 1.0
NOTE = "note"
NOT_MINE = "taken by another"
INTERRUPTED = "interrupted"


class Outcome(NamedTuple):
    """What a design is judged by: its `accuracy` on validation images (0..1), the `bytes` of its file, its `macs`."""

    accuracy: float
    bytes: float
    macs: float


class Step(NamedTuple):
    """A network on its way: its `accuracy` on validation images so far (0..1), its MACs, and the bytes that its weights
    alone will take in the file.
    """

    accuracy: float
    weight_bytes: float
    macs: float


Evaluate = Callable[[Design, Callable[[Step], None]], Outcome]
"""Tries a design. What it is given beside it wants to be called with each Step, and may end the trial."""


class _Taken(Exception):  # noqa: N818
    """Another process has the design, or all trials are given away."""


class Standing:
    """How a study stands: which designs are done, running elsewhere, or lost, as `mine`, a trial's number, sees it."""

    def __init__(self, trials: list[FrozenTrial], mine: int | None = None) -> None:
        """Read the trials, oldest first."""
        self.done: dict[Design, FrozenTrial] = {}
        self.running: set[Design] = set()
        broken: Counter[Design] = Counter()
        for trial in trials:
            design = design_of(trial)
            if design is None or trial.number == mine or trial.user_attrs.get(NOTE) == NOT_MINE:
                continue
            note = trial.user_attrs.get(NOTE)
            if trial.state == TrialState.RUNNING:
                self.running.add(design)
            elif trial.state == TrialState.FAIL and note in (None, INTERRUPTED):
                broken[design] += note is None
                if broken[design] >= RETRIES:
                    self.done[design] = trial
            else:
                self.done[design] = trial
        self.lost = [one for one in broken if one not in self.done and one not in self.running]

    @property
    def taken(self) -> set[Design]:
        """What nobody else may begin."""
        return self.running | set(self.done)


def design_of(trial: FrozenTrial) -> Design | None:
    """What a trial is about; None while that is not decided."""
    return Design(**trial.params) if set(FIELDS) <= set(trial.params) else None


def search(config: Config, evaluate: Evaluate, storage: str | None = None, images: str = "") -> Study:
    """Try designs of `config` with `evaluate` until its goal is reached, and return the study.

    Without `storage`, the URL of a database, nothing is kept. `images` is the fingerprint of those that `evaluate`
    looks at: who looks at others cannot join. A design for which `evaluate` raises EdgelabError counts as tried; what
    else it raises ends the search, and the design is tried again by the next one.
    Raises EdgelabError where the database cannot be used or holds another sweep of that name.
    """
    with _storage_named(storage):
        study = _opened(config, storage, images)
        with tqdm(desc=f"sweep {config.study}", total=config.goal, unit="trial", disable=storage is None) as bar:
            while True:
                _fail_stale(study)
                standing = Standing(study.get_trials(deepcopy=False))
                bar.n = min(len(standing.done), config.goal)
                bar.refresh()
                if bar.n == config.goal:
                    return study
                _go_on(study, config, evaluate, standing, bar.set_postfix_str)


def _go_on(study: Study, config: Config, evaluate: Evaluate, standing: Standing, say: Callable[[str], None]) -> None:
    """One more trial, or a while of waiting for those of others."""
    if len(standing.taken) >= config.goal:
        say(f"waiting for {len(standing.running)} of another process")
        time.sleep(WAIT)
        return
    say("")
    turn = _Turn(config, evaluate)
    try:
        study.optimize(turn, n_trials=1, catch=(_Taken, EdgelabError))
    except Exception:
        if not turn.given_up:
            raise


def _fail_stale(study: Study) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


class _Turn:
    """One trial of this process, as Optuna's objective.

    `given_up` says that others took it for lost meanwhile, as after a machine has slept. Its result is dropped then.
    """

    def __init__(self, config: Config, evaluate: Evaluate) -> None:
        self.config, self.evaluate, self.given_up = config, evaluate, False

    def __call__(self, trial: Trial) -> Outcome:
        """Draw a design, make sure of it, try it."""
        drawn = {name: trial.suggest_categorical(name, values) for name, values in self.config.space.items()}
        design = Design(**drawn)
        others = Standing(trial.study.get_trials(deepcopy=False), mine=trial.number).taken
        if design in others or len(others) >= self.config.goal:
            trial.set_user_attr(NOTE, NOT_MINE)
            time.sleep(random.random() / 5)  # so that two that let go do not draw at the same time again
            raise _Taken
        try:
            return self.evaluate(design, partial(_stop_if_hopeless, trial))
        except EdgelabError as problem:
            trial.set_user_attr(NOTE, str(problem))
            raise
        except KeyboardInterrupt:
            trial.set_user_attr(NOTE, INTERRUPTED)
            raise
        finally:
            self.given_up = trial.study.get_trials(deepcopy=False)[trial.number].state.is_finished()


def _stop_if_hopeless(trial: Trial, step: Step) -> None:
    """End the trial if what it makes can hardly come to the front. Called before each of the finer steps.

    The rule: a finished design is better by MARGIN, 5 points of validation accuracy, than this one is now; its whole
    file is no larger than this one's weights alone will be; and it needs no more MACs. The channels are settled by
    then, so both costs are lower bounds. The finer steps (a teacher, zeros, four bits) win back a point or two where
    they do not cost accuracy, so 5 points leave room; a network that has only just begun to learn may yet prove the
    rule wrong, and is the price of the time saved.
    """
    finished = (TrialState.COMPLETE,)
    for other in trial.study.get_trials(deepcopy=False, states=finished):
        better = Outcome(*other.values)
        is_cheaper = better.bytes <= step.weight_bytes and better.macs <= step.macs
        if is_cheaper and better.accuracy >= step.accuracy + MARGIN:
            told = f"stopped at {step.accuracy:.1%}: trial {other.number} has {better.accuracy:.1%} for less"
            trial.set_user_attr(NOTE, told)
            raise optuna.TrialPruned(told)


def _opened(config: Config, storage: str | None, images: str) -> Study:
    """The study in the database, made if need be. Raises EdgelabError where it is about something else."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    keeper = _keeper(storage) if storage else None
    study = optuna.create_study(
        study_name=config.study,
        storage=keeper,
        sampler=_Distinct(config),
        directions=DIRECTIONS,
        load_if_exists=True,
    )
    known, agreed = study.user_attrs, {"identity": config.identity, "images": images}
    is_foreign = "identity" not in known and study.get_trials(deepcopy=False)
    if is_foreign or any(known.get(key, value) != value for key, value in agreed.items()):
        raise EdgelabError(
            f"the study {config.study!r} is there already and searches something else (its space, profile, images or "
            "epochs differ): give this one another name"
        )
    for key, value in agreed.items():
        study.set_user_attr(key, value)
    return study


def _keeper(storage: str) -> RDBStorage:
    """Optuna's storage at a URL. Where two processes make the tables at once one of them fails, and tries again."""
    wait = {"timeout": 60} if storage.startswith("sqlite") else {"connect_timeout": 10}
    engine = {"connect_args": wait, "pool_pre_ping": True}
    for attempt in (1, 2, 3):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(storage, engine_kwargs=engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        except (IntegrityError, OperationalError, ProgrammingError):
            if attempt == 3:
                raise
            time.sleep(attempt * random.random())
        except ImportError as error:
            raise EdgelabError(
                f"{storage.partition(':')[0]} needs a driver that is not installed: pip install 'edgelab[database]'"
            ) from error
    raise AssertionError("the third attempt returns or raises")


@contextmanager
def _storage_named(storage: str | None) -> Iterator[None]:
    """Say what is wrong with a database in one line that names it without its password."""
    try:
        shown = make_url(storage).render_as_string() if storage else ""
        yield
    except ArgumentError:
        raise EdgelabError("expected a storage URL such as postgresql+psycopg://user@host/database") from None
    except (SQLAlchemyError, StorageInternalError) as error:
        first = str(error.__cause__ or error).strip().splitlines()[0]
        raise EdgelabError(
            f"the database {shown} cannot be used ({first}): once it can, the same command goes on"
        ) from None


def front(study: Study) -> list[tuple[Design, Outcome]]:
    """The finished designs that no other dominates in accuracy, bytes and MACs together, smallest file first."""
    best = {design_of(trial): Outcome(*trial.values) for trial in study.best_trials}
    found = [(design, outcome) for design, outcome in best.items() if design]
    return sorted(found, key=lambda one: (one[1].bytes, one[1].macs))


class _Distinct(BaseSampler):
    """Draws designs that can be and that nobody has, lost ones first; each trial from a seed of its own.

    So two processes do not draw alike, and one that was interrupted does not repeat itself.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: CategoricalDistribution(values) for name, values in self.config.space.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        standing = Standing(study.get_trials(deepcopy=False))
        if standing.lost:
            return asdict(standing.lost[0])
        free = [asdict(one) for one in self.config.designs if one not in standing.taken]
        seed = (1_000_003 * self.config.seed + trial.number) % 2**32
        sampler: BaseSampler = RandomSampler(seed)
        if self.config.sampler == "tpe":
            sampler = TPESampler(seed=seed, multivariate=True, constant_liar=False)
        for _ in range(DRAWS):
            drawn = self._draw(sampler, study, trial, search_space)
            if drawn in free:
                return drawn
        return random.Random(seed).choice(free or [asdict(self.config.designs[0])])

    def _draw(
        self, sampler: BaseSampler, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each field; together they need not be a design that can be."""
        only = {name: values[0] for name, values in self.config.space.items()}
        several = {name: values for name, values in space.items() if not values.single()}
        return only | (
            sampler.sample_relative(study, trial, several)
            or {name: sampler.sample_independent(study, trial, name, values) for name, values in several.items()}
        )

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        raise NotImplementedError(f"{param_name} belongs to a design, which is drawn as a whole")
