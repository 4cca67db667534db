"""Brings a request's images in: checked, bounded, and as data URLs, whatever way they came."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from confide.api.fetch import Fetcher
from confide.api.images import ImagePolicy, check_count, data_url, load_image
from confide.wire.openai import ChatRequest, ImagePart


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What images may be, who fetches those that came as an https URL, and how many are decoded at once.

    Decoding one image of the largest size takes a core for a second and hundreds of megabytes.
    """

    policy: ImagePolicy = field(default_factory=ImagePolicy)
    fetcher: Fetcher | None = None
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


async def load_images(request: ChatRequest, rules: ImageRules) -> None:
    """Replace each image of the request by its checked bytes.

    Raises:
        InvalidRequest: too many images, or one that isn't what it must be.
    """
    found = [
        (part, f"messages[{index}].content[{position}].image_url.url")
        for index, message in enumerate(request.messages)
        for position, part in enumerate(message.content if isinstance(message.content, list) else ())
        if isinstance(part, ImagePart)
    ]
    check_count(len(found), param="messages", policy=rules.policy)
    for part, param in found:
        image = await load_image(
            part.image_url.url,
            param=param,
            policy=rules.policy,
            fetcher=rules.fetcher,
            decoding=rules.decoding,
        )
        part.image_url.url = data_url(image)
