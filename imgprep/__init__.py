"""Prepare ImageNet once: verified shards, and the mean image and RGB PCA of the training set."""

__version__ = "0.1.0"
__all__ = ["__version__"]
