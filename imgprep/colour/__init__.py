"""Colour statistics of the training set, from exact integer sums.

HWC uint8 pixels come in and are summed in ``moments``; the mean image, the RGB covariance and its
eigenvectors come out. Start reading at ``moments``, then ``pca``; ``stats`` writes the report.
"""
