"""All items, in the order of the page."""

from __future__ import annotations

from train.paper.item import Item
from train.paper.items import fig2
from train.paper.items.text import TEXT

ITEMS: tuple[Item, ...] = (fig2.ITEM, *TEXT)


def by_id() -> dict[str, Item]:
    """Return the items by their ids."""
    return {item.id: item for item in ITEMS}
