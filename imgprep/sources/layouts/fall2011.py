"""All of ImageNet in the release of fall 2011: one tar of class tars, without a val split."""

from __future__ import annotations

from functools import partial

from imgprep.sources.challenges import FALL_2011_TAR
from imgprep.sources.layout import Candidate, Layout
from imgprep.sources.layouts.archives import scan_train_tar
from imgprep.sources.tree import Tree
from imgprep.wording import readable_bytes


def detect(tree: Tree) -> Candidate | None:
    """Recognise the archive by its official name."""
    if not tree.is_file(FALL_2011_TAR):
        return None
    return Candidate(
        layout="fall2011",
        evidence=(f"found {FALL_2011_TAR} ({readable_bytes(tree.size_bytes(FALL_2011_TAR))})",),
        train=partial(scan_train_tar, tree, FALL_2011_TAR),
    )


LAYOUT = Layout(expected=FALL_2011_TAR, detect=detect)
