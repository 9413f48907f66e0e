"""Prepare ImageNet once: verified shards, the mean image and the RGB PCA of the training set."""

__version__ = "0.1.0"
__all__ = ["__version__"]
