"""From shards to batches of image tensors.

In: a dataset (``dataset.open_dataset``) and settings (``InputConfig``). Out: batches on the
training device (``TrainLoader``, ``EvalLoader``). Start with ``loader``; then read ``order`` and
``augment`` (all randomness, as pure functions) and ``nodes`` (the pixels). A new augmentation is
a setting in ``train/config.py``, a draw in ``augment`` and a node in ``nodes``.
"""
