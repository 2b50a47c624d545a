"""Generation: the Python API, model folders and the batch runner."""
