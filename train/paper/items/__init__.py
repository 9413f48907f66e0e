"""All items, in the order of the page."""

from __future__ import annotations

from train.paper.item import Item
from train.paper.items import appendix, fig2, fig3, fig4
from train.paper.items.text import TEXT

ITEMS: tuple[Item, ...] = (fig2.ITEM, fig3.ITEM, fig4.ITEM, *TEXT, *appendix.ITEMS)


def by_id() -> dict[str, Item]:
    """Return the items by their ids."""
    return {item.id: item for item in ITEMS}
