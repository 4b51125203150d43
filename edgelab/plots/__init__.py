"""Figures for notebooks and the book: each carries alternative text, a caption and the table it was drawn from.

Colours are those of Okabe and Ito 2008 (Color Universal Design), which colour-blind readers tell apart; marker and line
style say the same again, so that a figure can be read when printed in grey. The background is white in any theme.
"""

from edgelab.plots._base import Figure, Table, table
from edgelab.plots.bits import accuracy_by_bits
from edgelab.plots.bounds import roofline
from edgelab.plots.classes import classes
from edgelab.plots.confusion import confusion_matrix
from edgelab.plots.energy import CHECKED, board_check, energy_by_layer
from edgelab.plots.frontier import pareto
from edgelab.plots.pictures import images
from edgelab.plots.placing import memory_map
from edgelab.plots.repeats import accuracy_by_seed
from edgelab.plots.sparsity import accuracy_by_sparsity
from edgelab.plots.tradeoffs import accuracy_against_size, results
from edgelab.plots.training import learning_curves

__all__ = [
    "CHECKED",
    "Figure",
    "Table",
    "accuracy_against_size",
    "accuracy_by_bits",
    "accuracy_by_seed",
    "accuracy_by_sparsity",
    "board_check",
    "classes",
    "confusion_matrix",
    "energy_by_layer",
    "images",
    "learning_curves",
    "memory_map",
    "pareto",
    "results",
    "roofline",
    "table",
]
