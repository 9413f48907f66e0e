"""Colour statistics of the training set, from exact integer sums.

Pixels come in as HWC uint8 and are added up in ``moments``; the mean image, the RGB covariance and
its eigenvectors come out. Start with ``moments``, then ``pca``; ``stats`` is what people read.
"""
