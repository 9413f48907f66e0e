"""One image: the bytes of an image file go in, the pixels of a record come out.

``decode`` turns a file of any supported format into RGB pixels, ``resize`` scales and crops them
(``geometry`` computes the sizes, ``kernel`` does the arithmetic), and ``prepare`` runs both.
Start reading at ``prepare``.
"""
