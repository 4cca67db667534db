"""Images of one colour."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def picture(kind: str, colour: str = "red", size: tuple[int, int] = (64, 64), **options: Any) -> str:
    """A data URL."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
