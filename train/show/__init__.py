"""What people look at: figures, pages, contact sheets and exports of a run or a checkpoint.

Saved runs, checkpoints and datasets come in; pictures, HTML pages, numbers and ONNX files come out.
Start with ``report`` (the page of a run) or ``figures`` (filters and learning curves).
"""
