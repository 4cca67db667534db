"""Brings a request's images in: checked, bounded, and as data URLs, whatever way they came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from confide.api.images import Fetcher, ImagePolicy, check_count, data_url, load_image
from confide.wire.openai import ChatRequest, ImagePart


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What images may be, who fetches those that came as an https URL, and how many are decoded at once.

    Decoding one image of the largest size takes a core for a second and hundreds of megabytes.
    """

    policy: ImagePolicy = field(default_factory=ImagePolicy)
    fetcher: Fetcher | None = None
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a request: its URL, the member where that stands, and how another takes its place.

    ``among`` is the member that all images are in.
    """

    url: str = field(repr=False)
    param: str
    put: Callable[[str], None] = field(repr=False)
    among: str = "messages"


async def load_images(pictures: Sequence[Picture], rules: ImageRules) -> None:
    """Replace each image of a request by its checked bytes.

    Raises:
        InvalidRequest: too many images, or one that isn't what it must be.
    """
    if pictures:
        check_count(len(pictures), param=pictures[0].among, policy=rules.policy)
    for picture in pictures:
        image = await load_image(
            picture.url,
            param=picture.param,
            policy=rules.policy,
            fetcher=rules.fetcher,
            decoding=rules.decoding,
        )
        picture.put(data_url(image))


def chat_pictures(request: ChatRequest) -> list[Picture]:
    """The images of a chat request."""
    return [
        Picture(
            part.image_url.url,
            f"messages[{index}].content[{position}].image_url.url",
            partial(setattr, part.image_url, "url"),
        )
        for index, message in enumerate(request.messages)
        for position, part in enumerate(message.content if isinstance(message.content, list) else ())
        if isinstance(part, ImagePart)
    ]
