"""What is loaded into this process, and how: for those who describe it before the engine's modules are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Which file to load, and how. ``context_length`` is in tokens per slot; ``threads`` None means all cores."""

    path: Path
    projector: Path | None = None
    slots: int = 4
    context_length: int | None = None
    threads: int | None = None
    max_queue: int = 128
    queue_timeout: float = 60.0
    created: int = 0
