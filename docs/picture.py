"""Takes the picture of the page that the README shows: ``python docs/picture.py``, with the default model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.page.browsing import launched, visiting
from tests.serving import serving

from confide.engine.catalogue import DEFAULT

PICTURE = Path(__file__).parent / "images" / "page.webp"
QUESTION = "Why is the sky blue? Answer in two sentences."
WIDTH = 1440


def main() -> None:
    """Ask the default model something, open the receipt, and keep what is seen."""
    with tempfile.TemporaryDirectory() as made, serving(Path(made), [], model=DEFAULT) as server:
        with sync_playwright() as playwright:
            browser = launched(playwright)
            origin = server.url.removesuffix("/v1")
            with visiting(browser, origin, server.key, device_scale_factor=2) as visit:
                visit.settled("development")
                answer = visit.answered(QUESTION)
                answer.locator(".badge").click()
                visit.page.mouse.move(0, 0)
                visit.page.locator("#log").evaluate("log => log.scrollTop = 0")
                visit.page.wait_for_timeout(300)
                shot = Path(made) / "page.png"
                visit.page.screenshot(path=shot)
            browser.close()
        PICTURE.parent.mkdir(exist_ok=True)
        with Image.open(shot) as picture:
            size = (WIDTH, round(picture.height * WIDTH / picture.width))
            picture.resize(size, Image.Resampling.LANCZOS).save(PICTURE, quality=88, method=6)


if __name__ == "__main__":
    main()
