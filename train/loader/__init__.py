"""Feed any torch model from a prepared dataset: ``from train.loader import ImageLoader``.

In: a dataset of imgprep (folder or URL) and settings (``LoaderSettings``, as keywords). Out: an
iterable of ``(images, labels)`` for plain torch, DistributedDataParallel, Lightning and accelerate,
with the batches of ``train.feed``. Start reading with ``images``; ``settings`` lists the settings,
and ``progress`` is what a state holds.
"""

from train.loader.images import ImageLoader
from train.loader.settings import LoaderSettings

__all__ = ["ImageLoader", "LoaderSettings"]
