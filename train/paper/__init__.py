"""The paper's tables and figures from runs of this trainer: ``imgprep-train paper``.

In: a dataset, a scale, the items to make. Out: the runs in a folder, a page, Markdown and
``results.json``. Start reading at ``item``, which says what an item is; ``items`` declares them
all, ``plan`` turns them into commands, ``runner`` runs these, ``page`` lays out the results.
"""
