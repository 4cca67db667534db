"""Takes the tutorial's pictures from what the page's tests have left: ``python docs/shots.py .cache/page``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from PIL import Image

PICTURES: Final = Path(__file__).parent / "pictures"
STATES: Final = ("receipt", "tampered")
"""States of ``tests/page/test_looks.py`` that the tutorial shows, at a desk, in daylight."""

WIDTH: Final = 1152


def main() -> None:
    """Scale each down and keep it."""
    folder = Path(sys.argv[1])
    for state in STATES:
        with Image.open(folder / f"{state}-desktop-light.png") as shot:
            size = (WIDTH, round(shot.height * WIDTH / shot.width))
            shot.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(
                PICTURES / f"page-{state}.webp", quality=86, method=6
            )


if __name__ == "__main__":
    main()
