"""Kernels of the response norms: compiled C on a CPU (``cpu``), Triton on a GPU (``gpu``).

Each module has ``takes`` (whether it can compute with a tensor), and a forward and a backward
function for each norm that it has; ``norms`` asks them and falls back to torch operations.
"""
