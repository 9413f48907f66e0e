"""The official archives of ILSVRC2010, whose test split has labels."""

from __future__ import annotations

from dataclasses import replace

from imgprep.sources.challenges import ILSVRC2010, ILSVRC2012
from imgprep.sources.layout import Candidate, Layout
from imgprep.sources.layouts.archives import detect_archives
from imgprep.sources.tree import Tree

PATCH_TAR = "patch_images.tar"
"""Published later, with another version of some images."""


def detect(tree: Tree) -> Candidate | None:
    """Recognise the archives of ILSVRC2010 by their official names.

    Raises:
        UsageError: an archive is not a file, or a broken link.
    """
    candidate = detect_archives(tree, ILSVRC2010, "ilsvrc2010")
    if candidate is None or not any(map(tree.is_file, ILSVRC2010.image_tars)):
        return None  # Class tars alone may be of any release.
    if tree.is_file(PATCH_TAR):
        evidence = f"{PATCH_TAR} is not read: the images that it replaces are those of the archives"
        candidate = replace(candidate, evidence=(*candidate.evidence, evidence))
    if any(map(tree.is_file, ILSVRC2012.image_tars)):
        return candidate
    return replace(candidate, special_case_of="archives")  # it would see the class tars alone


LAYOUT = Layout(
    expected=f"{ILSVRC2010.train_tar}, {ILSVRC2010.val_tar} and {ILSVRC2010.test_tar}, with the "
    f"devkit and {ILSVRC2010.ground_truth('test')}",
    detect=detect,
)
