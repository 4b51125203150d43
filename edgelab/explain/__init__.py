"""Why a model file is as fast or slow, as small or large as it is: measured, with a verdict made from the figures."""

from edgelab.explain._int8 import Int8Report, int8, is_quantized
from edgelab.explain._profile import Operator, Profile
from edgelab.explain._sparsity import SparseWeight, SparsityReport, sparsity

__all__ = ["Int8Report", "Operator", "Profile", "SparseWeight", "SparsityReport", "int8", "is_quantized", "sparsity"]
