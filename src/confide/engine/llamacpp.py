"""Numbers of llama.cpp's API, in this process and behind HTTP. Source: ``tools/server/server-task.cpp``."""

from __future__ import annotations

from typing import Final

SEEDS: Final = 2**32 - 1
"""Its seeds have 32 bits, and the highest stands for "random"."""

PENALISED: Final = 2**16
"""How many of the last tokens its penalties look at: the whole text, as OpenAI's do, where its own default are 64.

A buffer of that length is made for each request. -1, for the context's length, isn't taken any more by newer builds.
"""
