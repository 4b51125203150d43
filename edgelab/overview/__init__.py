"""The comparison of all techniques, what the projects this course grew from report, and advice on which to use.

Tables and sentences are made from the published ledger. A piece of advice says on which rows it rests and what must
hold of them: where a new measurement takes that away, the book is not built.
"""

from edgelab.overview._advice import ADVICE, Advice, advice
from edgelab.overview._claims import CLAIMS, Claim, claims
from edgelab.overview._coverage import KINDS, Kind, coverage
from edgelab.overview._goals import GOALS, Goal, goals
from edgelab.overview._rows import BASELINE, Source
from edgelab.overview._tables import energy_error, fronts, repeats, techniques

__all__ = [
    "ADVICE",
    "BASELINE",
    "CLAIMS",
    "GOALS",
    "KINDS",
    "Advice",
    "Claim",
    "Goal",
    "Kind",
    "Source",
    "advice",
    "claims",
    "coverage",
    "energy_error",
    "fronts",
    "goals",
    "repeats",
    "techniques",
]
