"""The TensorFlow track, on tf_keras (Keras 2): the same file and function names as `edgelab.pytorch`."""
