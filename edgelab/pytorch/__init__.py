"""The PyTorch track: the same file and function names as `edgelab.tensorflow`."""
