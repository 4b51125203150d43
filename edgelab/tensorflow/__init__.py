"""The TensorFlow track, on tf_keras (Keras 2): the same file and function names as `edgelab.pytorch`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
