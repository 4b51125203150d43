"""Microcontrollers: which boards a .tflite file fits, and the program that runs it there."""

from edgelab.micro.fitting import Fit, Needs, fit, fits, in_words, needs, run, to_frame
from edgelab.micro.program import sketch, write
from edgelab.micro.targets import BOARDS, Board, board

__all__ = [
    "BOARDS",
    "Board",
    "Fit",
    "Needs",
    "board",
    "fit",
    "fits",
    "in_words",
    "needs",
    "run",
    "sketch",
    "to_frame",
    "write",
]
