"""Claims in the text of the paper: one change each, against the same baseline."""

from __future__ import annotations

from train.paper.ablation import ablation
from train.paper.item import Item

LEFT_OUT = (
    "Removing any middle layer costs about 2 points of top-1 error (7); each of the convolutional "
    "layers holds no more than 1 % of the parameters (1)."
)
_AUGMENTED = (
    "Without crops and mirror images the network overfits, which would have forced a much smaller "
    "one (4.1)."
)

TEXT: tuple[Item, ...] = (
    ablation(
        id="lrn",
        title="Local response normalisation",
        paper="It reduces the top-1 and top-5 errors by 1.4 and 1.2 points (3.3).",
        notes="0.420340 and 0.193620 without any norm (148), 0.406640 and 0.182100 with them.",
        name="no-lrn",
        settings={"net.lrn": False, "net.spatial_norm": False},
        change="without LRN",
    ),
    ablation(
        id="pooling",
        title="Overlapping pooling",
        paper="Windows of 3 at a distance of 2, instead of 2 and 2, reduce the errors by 0.4 and "
        "0.3 points (3.4).",
        notes="0.410580 and 0.185100 with windows of 2 (147), 0.406640 and 0.182100 with 3.",
        name="pool-2",
        settings={"net.pool_size": 2},
        change="with windows of 2",
    ),
    ablation(
        id="half",
        title="Two GPUs against one",
        paper="The net on two GPUs has errors 1.7 and 1.2 points lower than a net with half as "
        "many filters in each convolutional layer on one GPU (3.2).",
        notes="0.391680 and 0.182287 for the half net on the 2010 test set (145-half), 0.374727 "
        "and 0.169987 for the whole one: 1.70 and 1.23 points.",
        name="one-gpu",
        settings={"net.architecture": "one-gpu"},
        change="with the net for one GPU",
    ),
    ablation(
        id="dropout",
        title="Dropout",
        paper="Without dropout the network shows substantial overfitting; with it, training needs "
        "about twice as many iterations (4.2).",
        notes="",
        name="no-dropout",
        settings={"net.dropout_keep": 1},
        change="without dropout",
    ),
    ablation(
        id="augmentation",
        title="Random crops and mirror images",
        paper=_AUGMENTED,
        notes="",
        name="no-crops",
        settings={"input.crop": "centre", "input.flip": False},
        change="without crops and mirror images",
    ),
    ablation(
        id="colour",
        title="Colour noise",
        paper="It reduces the top-1 error by over 1 point (4.1).",
        notes="",
        name="no-colour",
        settings={"input.lighting": "off"},
        change="without colour noise",
    ),
    *(
        ablation(
            id=f"layers-{layer}",
            title=f"Without {layer}",
            paper=LEFT_OUT,
            notes="",
            name=f"without-{layer}",
            settings={"net.leave_out": layer},
            change=f"without {layer}",
        )
        for layer in ("conv3", "conv4", "conv5", "fc6", "fc7")
    ),
)
