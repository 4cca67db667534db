"""From the URL of an ``image_url`` part to bytes that an engine may decode: bounded and verified.

Every refusal is a 400 with OpenAI's codes, and no message repeats any of the URL. The bounds come in this
order: length of the text, length of the bytes, pixels in the header, work that the compressed data asks
for; only then a decoder runs, in a worker thread, on one of four formats.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from confide.api.imagehead import Header, HeaderError, check_work, read_header
from confide.errors import ConfideError, InvalidRequest

if TYPE_CHECKING:
    from PIL import Image as Pillow

INVALID_URL = "invalid_image_url"
PARSE_ERROR = "image_parse_error"
INVALID_FORMAT = "invalid_image_format"
TOO_LARGE = "image_too_large"

MEDIA_TYPES = {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif"}
# llama.cpp decodes with stb_image, which reads PNG and JPEG, no WebP, and of a GIF the first frame.
PASSED_ON = {"PNG": "image/png", "JPEG": "image/jpeg"}

# data:image/png;name=value;base64, and then the data. Bounded, so that a long text is not searched.
DATA_URL = re.compile(r"data:([a-z0-9.+/-]{1,64})((?:;[^,;]{1,64}){0,8}?);base64,", re.IGNORECASE)
MAX_PREFIX = 1024
MAX_REMOTE_URL = 4096

NOT_A_URL = "Invalid image URL. The URL must be a valid HTTPS URL, or a data URL with base64 encoding."
FETCHING_OFF = "Remote image URLs are disabled on this server. Send the image as a data URL (base64) instead."
BAD_BASE64 = "Invalid image URL. The data URL does not hold valid base64."
UNSUPPORTED = (
    "You uploaded an unsupported image. Please make sure your image is of one of the following formats: "
    "['png', 'jpeg', 'gif', 'webp']."
)
ANIMATED = "You uploaded an unsupported image: it is animated. Please send a non-animated image."
BROKEN = "The image could not be read: its data is damaged, cut off or not as its header says."


class FetchError(ConfideError):
    """No image came of it. The message is for the client and holds nothing of the URL; so is the code."""

    def __init__(self, message: str, *, code: str = "invalid_image_url") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Fetcher(Protocol):
    """Whoever gets the bytes behind an https URL."""

    async def fetch(self, url: str, *, max_bytes: int, seconds: float) -> bytes:
        """The body, at most ``max_bytes`` of it, within ``seconds``; or FetchError."""
        ...

    async def aclose(self) -> None:
        """Close what it holds open."""
        ...


@dataclass(frozen=True)
class ImagePolicy:
    """What images this server takes. ``timeout`` is in seconds, for one download with all its redirects."""

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 40_000_000
    max_images: int = 16
    allow_urls: bool = False
    timeout: float = 10.0


@dataclass(frozen=True)
class Image:
    """A verified PNG or JPEG; width and height are those of its pixels."""

    data: bytes = field(repr=False)
    media_type: str
    width: int
    height: int


async def load_image(
    url: str,
    *,
    param: str,
    policy: ImagePolicy,
    fetcher: Fetcher | None,
    decoding: AbstractAsyncContextManager[object] | None = None,
) -> Image:
    """The image behind a URL.

    Args:
        url: a data URL, or an https URL where the policy allows it.
        param: the path of the URL in the request, for the error object.
        policy: the bounds.
        fetcher: who downloads; may be None where the policy allows no remote URL.
        decoding: held while an image is decoded, to bound how many are at once.

    Raises:
        InvalidRequest: code invalid_image_url, invalid_image_format, image_parse_error or image_too_large.
    """
    try:
        work: Callable[[], Image]
        if url[:5].lower() == "data:":
            work = partial(_from_base64, _data_of(url, policy), policy)
        else:
            work = partial(_verified, await _download(url, policy, fetcher), policy)
        async with decoding or nullcontext():
            return await asyncio.to_thread(work)
    except _Refused as refused:
        raise InvalidRequest(refused.message, param=param, code=refused.code) from None


def check_count(count: int, *, param: str, policy: ImagePolicy) -> None:
    """Refuse a request with more images than the policy allows; call it before the first is loaded."""
    if count > policy.max_images:
        message = f"Too many images in request. The maximum is {policy.max_images}, but got {count}."
        raise InvalidRequest(message, param=param, code="too_many_images")


def data_url(image: Image) -> str:
    """The form in which an engine takes it."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _data_of(url: str, policy: ImagePolicy) -> str:
    prefix = DATA_URL.match(url, 0, MAX_PREFIX)
    if prefix is None:
        raise _Refused(INVALID_URL, NOT_A_URL)
    if prefix[1].lower() not in MEDIA_TYPES:
        raise _Refused(INVALID_FORMAT, UNSUPPORTED)
    if len(url) - prefix.end() > 4 * -(-policy.max_bytes // 3):
        raise _too_many_bytes(policy)
    return url[prefix.end() :]


def _from_base64(text: str, policy: ImagePolicy) -> Image:
    if text.endswith("==="):  # too much padding is what the strict mode lets pass
        raise _Refused(INVALID_URL, BAD_BASE64)
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError
        raise _Refused(INVALID_URL, BAD_BASE64) from None
    return _verified(data, policy)


async def _download(url: str, policy: ImagePolicy, fetcher: Fetcher | None) -> bytes:
    if not url[:8].lower().startswith(("https://", "http://")):
        raise _Refused(INVALID_URL, NOT_A_URL)
    if fetcher is None or not policy.allow_urls:
        raise _Refused(INVALID_URL, FETCHING_OFF)
    if len(url) > MAX_REMOTE_URL:
        raise _Refused(INVALID_URL, f"Invalid image URL. It is longer than {MAX_REMOTE_URL} characters.")
    try:
        return await fetcher.fetch(url, max_bytes=policy.max_bytes, seconds=policy.timeout)
    except FetchError as failed:
        raise _Refused(failed.code, failed.message) from None


def _verified(data: bytes, policy: ImagePolicy) -> Image:
    if len(data) > policy.max_bytes:
        raise _too_many_bytes(policy)
    try:
        header = read_header(data)
        if header is None:
            raise _Refused(INVALID_FORMAT, UNSUPPORTED)
        if header.width * header.height > policy.max_pixels:
            raise _too_many_pixels(policy)
        check_work(data, header)
    except HeaderError:
        raise _Refused(PARSE_ERROR, BROKEN) from None
    return _decoded(data, header, policy)


# What Pillow raises on damaged bytes, by reading and by trying; a decoder's error is never ours to pass on.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    AttributeError,
    struct.error,
    Warning,
)


def _decoded(data: bytes, header: Header, policy: ImagePolicy) -> Image:
    from PIL import Image as Pillow  # in the worker thread, and not in servers that are sent no image

    try:
        # Pillow has a bomb check of its own, with a higher limit. It can still meet a GIF whose frame is
        # larger than its screen, so the size that Pillow arrived at is compared again.
        with Pillow.open(io.BytesIO(data), formats=[header.format]) as picture:
            _check_opened(picture, header, policy)
            if header.format == "JPEG":
                # Every byte is read, one pixel in 64 is kept.
                picture.draft(None, (max(1, picture.width // 8), max(1, picture.height // 8)))
            picture.load()
            if header.format in PASSED_ON:
                return Image(data, PASSED_ON[header.format], header.width, header.height)
            return Image(_as_png(picture), "image/png", picture.width, picture.height)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise _too_many_pixels(policy) from None
    except _PILLOW_ERRORS:
        raise _Refused(PARSE_ERROR, BROKEN) from None


def _check_opened(picture: Pillow.Image, header: Header, policy: ImagePolicy) -> None:
    # A JPEG with several pictures (MPO, as phones write it) is a photo and previews; decoders read the
    # first.
    if header.format != "JPEG" and getattr(picture, "is_animated", False):
        raise _Refused(INVALID_FORMAT, ANIMATED)
    if picture.width * picture.height > policy.max_pixels:
        raise _too_many_pixels(policy)
    if header.format in PASSED_ON and picture.size != (header.width, header.height):
        raise _Refused(PARSE_ERROR, BROKEN)


def _as_png(picture: Pillow.Image) -> bytes:
    out = io.BytesIO()
    plain = picture if picture.mode == "RGB" else picture.convert("RGB")
    plain.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _too_many_bytes(policy: ImagePolicy) -> _Refused:
    return _Refused(TOO_LARGE, f"The image is too large. The maximum is {policy.max_bytes} bytes.")


def _too_many_pixels(policy: ImagePolicy) -> _Refused:
    return _Refused(TOO_LARGE, f"The image is too large. The maximum is {policy.max_pixels} pixels.")
