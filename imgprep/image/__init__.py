"""One image file: bytes in, the record's pixels and encoded bytes out.

``decode`` turns any supported file into RGB pixels, ``resize`` scales and crops them (where
``geometry`` says), and ``prepare`` runs both and encodes the result. Start with ``prepare``.
"""
