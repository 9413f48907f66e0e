"""A real browser for the tests of pages: Debian's Chromium, headless, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; fails where the machine has none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    assert found, "no Chromium: apt-get install chromium (tools/test does it where it may)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True)
class Opened:
    """A page that is open, and all that it said or asked for."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, script: str) -> Any:
        return self.page.evaluate(script)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


@contextmanager
def open_page(
    browser: Browser, path: Path, *, width_px: int = 1280, dark: bool = False
) -> Iterator[Opened]:
    """Open a file; at the end nothing was said on the console and nothing fetched."""
    context = browser.new_context(
        viewport={"width": width_px, "height": 900}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    opened = Opened(page)
    page.on("console", lambda message: opened.messages.append(message.text))
    page.on("pageerror", lambda error: opened.messages.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    try:
        page.goto(path.resolve().as_uri(), wait_until="load")
        yield opened
        fetched = [url for url in opened.requests if not url.startswith("data:")]
        assert fetched == [path.resolve().as_uri()]
        assert opened.messages == []
    finally:
        context.close()


def check_sound(opened: Opened) -> None:
    """What holds for each page: nothing overflows, all has a name, pictures and charts are drawn,
    headings are in order, texts stand out from the paper (WCAG AA)."""
    assert opened.evaluate("document.documentElement.lang") == "en"
    assert opened.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    ), "the page scrolls sideways"
    broken = opened.evaluate(
        "[...document.images].filter(i => !i.naturalWidth || !i.alt.trim()).map(i => i.outerHTML)"
    )
    assert broken == []
    charts = opened.evaluate(
        """[...document.querySelectorAll('svg.chart')].map(s => {
            const marks = ['path', 'text', 'line']
                .flatMap(kind => [...s.querySelectorAll('.role-mark ' + kind)]);
            const drawn = marks.filter(m => { const b = m.getBoundingClientRect();
                return b.width + b.height > 0; });
            const named = s.getAttribute('aria-labelledby').split(' ')
                .every(id => document.getElementById(id).textContent.trim());
            return [s.getAttribute('role'), named, drawn.length > 0];
        })"""
    )
    assert all(chart == ["img", True, True] for chart in charts), charts
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    levels = opened.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName.slice(1))"
    )
    assert levels[0] == 1
    assert all(right - left <= 1 for left, right in pairwise(levels))
    faint = opened.evaluate(CONTRAST)
    assert faint == []


# Texts whose contrast with the paper behind them is below 4.5 (WCAG AA).
CONTRAST = """(() => {
    const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
    const light = c => { const [r, g, b] = parse(c).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const paper = getComputedStyle(document.body).backgroundColor;
    const found = [];
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || e.closest('title, desc')) continue;
        const style = getComputedStyle(e);
        const colour = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
        if (colour === 'none') continue;
        const [a, b] = [light(colour), light(paper)].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5)
            found.push(e.tagName + ': ' + e.textContent.trim().slice(0, 40) + ' ' + colour);
    }
    return found;
})()"""
