"""edgelab: make a neural network smaller, measure what it costs, in TensorFlow and PyTorch.

The parts follow one direction: data -> model -> technique -> artifact -> measurement -> ledger -> page. Importing this
package loads none of the frameworks; `edgelab.tensorflow` and `edgelab.pytorch` do.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
