"""All items, in the order of the page."""

from __future__ import annotations

from train.paper.item import Item
from train.paper.items import appendix, fig2, fig3, fig4
from train.paper.items.biases import BIASES
from train.paper.items.fig1 import FIG_1
from train.paper.items.readings import READINGS_ITEM
from train.paper.items.tables import TABLE_1, TABLE_2, VIEWS
from train.paper.items.text import TEXT

ITEMS: tuple[Item, ...] = (
    FIG_1,
    fig2.ITEM,
    fig3.ITEM,
    fig4.ITEM,
    TABLE_1,
    TABLE_2,
    *TEXT,
    VIEWS,
    BIASES,
    READINGS_ITEM,
    *appendix.ITEMS,
)


def by_id() -> dict[str, Item]:
    """Return the items by their ids."""
    return {item.id: item for item in ITEMS}
