"""Choose the layout of a source, by evidence that can be shown or as the user forces it."""

from __future__ import annotations

from imgprep.errors import UsageError
from imgprep.sources.hints import hints
from imgprep.sources.layout import Candidate, Layout
from imgprep.sources.layouts import LAYOUT_NAMES, LayoutName, load_layouts
from imgprep.sources.tree import Tree
from imgprep.storage.urls import is_url

NAMES_SHOWN = 8
HINTS_SHOWN = 3


def choose_layout(tree: Tree, forced: str | None) -> Candidate:
    """Return the one layout that fits a source, or the ``forced`` one.

    Raises:
        UsageError: the root is not a folder, or no layout or more than one fits.
    """
    layouts = load_layouts()
    name = next((name for name in LAYOUT_NAMES if name == forced), None)
    if forced is not None and name is None:
        raise UsageError(f"layout must be one of {', '.join(LAYOUT_NAMES)}; got {forced!r}")
    in_one_file = not is_url(tree.location) and tree.is_file("")
    if not in_one_file:
        tree.check_folder()
    root = tree.where()
    if name is not None:
        candidate = layouts[name].detect(tree)
        if candidate is None:
            raise UsageError(f"{root} does not have layout {name}: {layouts[name].expected}")
        return candidate
    if in_one_file:
        one_file = layouts["cifar"].detect(tree)
        if one_file is None:
            tree.check_folder()  # raises: no other layout is one file
        assert one_file is not None
        return one_file
    found = [one for layout in layouts.values() if (one := layout.detect(tree)) is not None]
    special = {one.special_case_of for one in found}
    found = [one for one in found if one.layout not in special]
    if len(found) == 1:
        return found[0]
    if found:
        lines = [f"  --layout {one.layout}: {'; '.join(one.evidence)}" for one in found]
        raise UsageError(f"{root} fits more than one layout; choose one:\n" + "\n".join(lines))
    raise UsageError(_not_recognised(tree, layouts))


def _not_recognised(tree: Tree, layouts: dict[LayoutName, Layout]) -> str:
    names = sorted(entry.name for entry in tree.entries())
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    expected = "\n".join(f"  {name}: {layout.expected}" for name, layout in layouts.items())
    guesses = hints(tree, list(layouts.values()))[:HINTS_SHOWN]
    return (
        f"{tree.where()} is not recognised as a source. It contains "
        f"{', '.join(names[:NAMES_SHOWN]) + more or 'nothing'}. "
        + (f"What may help: {'; '.join(guesses)}. " if guesses else "")
        + f"Known layouts (--layout forces one):\n{expected}"
    )
