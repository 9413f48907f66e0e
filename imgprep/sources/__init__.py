"""Read a source of images in place: a folder or a URL, with archives or with class folders.

What comes in is the location of a source; what goes out is a ``SourceScan``: its classes with
their labels, a manifest row for each image, and every problem found. ``SourceReader`` then returns
the bytes of an image by its row. Nothing is unpacked, and a scan opens no image.

Start reading at ``scan.py``. A layout (how a source is arranged) is one module in ``layouts/`` and
one line in ``layouts/__init__.py``.
"""
