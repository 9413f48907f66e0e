"""Kaggle's tree: ``ILSVRC/Data/CLS-LOC`` with ``LOC_val_solution.csv`` beside ``ILSVRC``."""

from __future__ import annotations

from dataclasses import replace

from imgprep.sources.layout import Candidate, Layout
from imgprep.sources.layouts import class_folders
from imgprep.sources.layouts.class_folders import detect_splits
from imgprep.sources.tree import Tree

CLS_LOC_NAME = "CLS-LOC"
CLS_LOC_PATHS = (f"ILSVRC/Data/{CLS_LOC_NAME}", f"Data/{CLS_LOC_NAME}", CLS_LOC_NAME)
TABLE_LEVELS_ABOVE = 3
"""The tables are beside ``ILSVRC/``, three folders above ``CLS-LOC``."""


def detect(tree: Tree) -> Candidate | None:
    """Recognise ``CLS-LOC`` below the root, or the root itself by its name."""
    for base in CLS_LOC_PATHS:
        if tree.is_folder(base):
            places = (tree, *tree.subtree(base).parents(TABLE_LEVELS_ABOVE))
            candidate = detect_splits(tree, base, "kaggle", places)
            return candidate and _with_evidence(candidate, f"found {base}/")
    if CLS_LOC_NAME in tree.root_names:
        places = (tree, *tree.parents(TABLE_LEVELS_ABOVE))
        candidate = detect_splits(tree, "", "kaggle", places)
        # It is also a folder with train/ and val/; its name tells which layout is meant.
        return candidate and replace(
            _with_evidence(candidate, f"the folder is named {CLS_LOC_NAME}"),
            special_case_of=class_folders.NAME,
        )
    return None


def _with_evidence(candidate: Candidate, sentence: str) -> Candidate:
    return replace(candidate, evidence=(sentence, *candidate.evidence))


LAYOUT = Layout(
    expected=f"{CLS_LOC_PATHS[0]}/train and val, with LOC_val_solution.csv",
    detect=detect,
)
