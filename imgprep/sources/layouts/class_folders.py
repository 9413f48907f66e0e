"""Folders of images: ``train/<class>/`` and ``val/<class>/``, or one folder of class folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from imgprep.errors import UsageError
from imgprep.sources.challenges import CHALLENGES
from imgprep.sources.folders import scan_class_folders, scan_folder
from imgprep.sources.layout import Candidate, Layout
from imgprep.sources.listing import class_folder_names, exists, holds_images
from imgprep.sources.tree import Tree, child_path
from imgprep.wording import counted

NAME = "class-folders"
VAL_FOLDERS = ("val", "validation")
SUB_FOLDERS_CHECKED = 8
NOT_CLASSES = frozenset({"train", "test", *VAL_FOLDERS})


def detect(tree: Tree) -> Candidate | None:
    """Recognise ``train/`` and ``val/``, or a folder of class folders, which is then train."""
    return detect_splits(tree, "", NAME, (tree,)) or _detect_train_alone(tree)


def detect_splits(
    tree: Tree, base: str, layout: str, table_folders: Sequence[Tree]
) -> Candidate | None:
    """Recognise ``train/`` of class folders, and ``val/`` or ``validation/`` of these or of images.

    Args:
        base: the folder that holds ``train/`` and ``val/``.
        layout: the name of the layout that the candidate is for.
        table_folders: where the devkit and other tables may be.

    Raises:
        UsageError: ``val/`` and ``validation/`` both exist, ``train/`` has no class folders, or
            images are one folder deeper.
    """
    train, test = child_path(base, "train"), child_path(base, "test")
    vals = [path for name in VAL_FOLDERS if tree.is_folder(path := child_path(base, name))]
    if len(vals) > 1:
        where = tree.where(base)
        raise UsageError(f"{where} has both {' and '.join(VAL_FOLDERS)}; rename one of them")
    train_classes = class_folder_names(tree, train)
    val_classes = class_folder_names(tree, vals[0]) if vals else []
    flat = bool(vals) and not val_classes and holds_images(tree, vals[0])
    _refuse_deeper_images(tree, train, train_classes)
    evidence = []
    if train_classes:
        evidence.append(f"found train/ with {counted(len(train_classes), 'class folder')}")
    name = next((name for name in VAL_FOLDERS if exists(tree, base, name)), "")
    if val_classes or flat:
        classes = counted(len(val_classes), "class folder")
        evidence.append(f"found {name}/ with {'images and no class folders' if flat else classes}")
    elif name and train_classes:
        evidence.append(f"{name} contains neither class folders nor images, and is left out")
    if not evidence:
        return None
    if not train_classes and exists(tree, base, "train"):
        raise UsageError(
            f"{tree.where(train)} contains no class folders: complete it (is its disk mounted?), "
            "or move it elsewhere to build val alone"
        )
    return Candidate(
        layout=layout,
        evidence=tuple(evidence),
        train=partial(scan_class_folders, tree, train) if train_classes else None,
        val=partial(scan_class_folders, tree, vals[0]) if val_classes else None,
        flat_val=partial(scan_folder, tree, vals[0]) if flat else None,
        flat_test=partial(scan_folder, tree, test) if tree.is_folder(test) else None,
        challenges=CHALLENGES,
        table_folders=tuple(table_folders),
    )


def _detect_train_alone(tree: Tree) -> Candidate | None:
    """Recognise a folder of class folders."""
    names = class_folder_names(tree, "")
    # A class may be called "train" (the vehicle); a folder beside "val" never is one.
    if set(names) & (NOT_CLASSES - {"train"}) or not set(names) - NOT_CLASSES:
        return None
    with_images = next((name for name in names if holds_images(tree, name)), None)
    if with_images is None:
        _refuse_deeper_images(tree, "", names)
        return None
    return Candidate(
        layout=NAME,
        evidence=(f"found {counted(len(names), 'class folder')} such as {with_images}/",),
        train=partial(scan_class_folders, tree, ""),
        challenges=CHALLENGES,
        table_folders=(tree,),
    )


def _refuse_deeper_images(tree: Tree, parent: str, classes: Sequence[str]) -> None:
    """Tell the user where images are one folder deeper, as in tiny-imagenet-200.

    Raises:
        UsageError: the class folders contain no images, but their sub-folders do.
    """
    deeper = []
    for name in dict.fromkeys((*classes[:1], *classes[len(classes) // 2 :][:1], *classes[-1:])):
        folder = child_path(parent, name)
        if holds_images(tree, folder):
            return
        deeper += [
            path
            for inner in class_folder_names(tree, folder)[:SUB_FOLDERS_CHECKED]
            if holds_images(tree, path := child_path(folder, inner))
        ]
    inner_names = {path.rpartition("/")[2] for path in deeper}
    if len(deeper) < 2 or len(inner_names) > 1:
        return
    expected, inner = deeper[0].rpartition("/")[0], inner_names.pop()
    classes_at = tree.where(parent).rstrip("/")
    raise UsageError(
        f"images are one folder deeper than expected: in {tree.where(deeper[0])}, not in "
        f"{tree.where(expected)}. Make a folder of links to them, and use that as SOURCE:\n"
        f"  mkdir -p LINKS/train; for c in '{classes_at}'/*/; do "
        f'ln -s "$(realpath "$c/{inner}")" "LINKS/train/$(basename "$c")"; done'
    )


LAYOUT = Layout(
    expected="train/<class>/<images> and val/<class>/<images>, or <class>/<images>",
    detect=detect,
)
