#!/usr/bin/env python3
"""Take a screenshot of an HTML page in a real browser.

    .venv/bin/python tools/screenshot.py PAGE.html OUT.png [--width PX] [--height PX] [--dark]

Uses Debian's Chromium, which tools/test installs. The picture has 256 colours, to stay small.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

COLOURS = 256


def photograph(page_path: Path, *, width_px: int, height_px: int | None, dark: bool) -> bytes:
    """Return a PNG of the whole page, or of its first ``height_px``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"],
        )
        page = browser.new_page(
            viewport={"width": width_px, "height": height_px or 900},
            color_scheme="dark" if dark else "light",
        )
        page.goto(page_path.resolve().as_uri(), wait_until="load")
        picture = page.screenshot(full_page=height_px is None)
        browser.close()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1000, metavar="PX")
    parser.add_argument("--height", type=int, metavar="PX", help="[default: the whole page]")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    png = photograph(
        options.page, width_px=options.width, height_px=options.height, dark=options.dark
    )
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT)
        few.save(options.out, "PNG", optimize=True)
    sys.stdout.write(f"{options.out}: {options.out.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
