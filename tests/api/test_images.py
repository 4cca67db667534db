"""Images as clients send them, real bytes each: what is taken, and each way of being refused."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image as Pillow

from confide.api.fetch import FetchError
from confide.api.images import Image, ImagePolicy, check_count, data_url, load_image
from confide.errors import InvalidRequest

PARAM = "messages[0].content[1].image_url.url"
POLICY = ImagePolicy()


def picture(format_: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Pillow.linear_gradient("L").resize(size).convert(mode).save(out, format_, **options)
    return out.getvalue()


def animation(format_: str) -> bytes:
    frames = [Pillow.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, format_, save_all=True, append_images=frames[1:])
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, stream: bytes, *, colour: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def gif_with_large_frame(side: int) -> bytes:
    """A screen of one pixel, and a frame that is far larger."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame + b"\x3b"


def many_scans(data: bytes, count: int) -> bytes:
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


def url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


class Canned:
    """A fetcher that needs no network."""

    def __init__(self, answer: bytes | FetchError) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int, float]] = []

    async def fetch(self, url: str, *, max_bytes: int, seconds: float) -> bytes:
        self.asked.append((url, max_bytes, seconds))
        if isinstance(self.answer, FetchError):
            raise self.answer
        return self.answer


def load(text: str, policy: ImagePolicy = POLICY, fetcher: Canned | None = None) -> Image:
    return asyncio.run(load_image(text, param=PARAM, policy=policy, fetcher=fetcher))


def refusal(text: str, policy: ImagePolicy = POLICY, fetcher: Canned | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        load(text, policy, fetcher)
    assert caught.value.status == 400
    assert caught.value.param == PARAM
    return caught.value


PASSED: dict[str, tuple[bytes, str]] = {
    "png": (picture("PNG"), "image/png"),
    "png, palette": (picture("PNG", mode="P"), "image/png"),
    "png, grey with alpha": (picture("PNG", mode="LA"), "image/png"),
    "png, 16 bits": (picture("PNG", mode="I;16"), "image/png"),
    "png, one pixel": (picture("PNG", (1, 1)), "image/png"),
    "jpeg": (picture("JPEG"), "image/jpeg"),
    "jpeg, progressive": (picture("JPEG", progressive=True), "image/jpeg"),
    "jpeg, grey": (picture("JPEG", mode="L"), "image/jpeg"),
    "jpeg, cmyk": (picture("JPEG", mode="CMYK"), "image/jpeg"),
    "jpeg, one pixel": (picture("JPEG", (1, 1)), "image/jpeg"),
    "jpeg of several pictures, as phones write": (animation("MPO"), "image/jpeg"),
    "jpeg with a comment": (picture("JPEG", comment=b"\xff\xc0 not a frame"), "image/jpeg"),
}


@pytest.mark.parametrize(("data", "media"), PASSED.values(), ids=PASSED)
def test_png_and_jpeg_go_on_byte_by_byte(data: bytes, media: str) -> None:
    with Pillow.open(io.BytesIO(data)) as opened:
        size = opened.size
    image = load(url(data, media))
    assert (image.data, image.media_type, (image.width, image.height)) == (data, media, size)
    assert data_url(image) == url(data, media)


@pytest.mark.parametrize(
    ("format_", "options"),
    [("GIF", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0"})],
)
def test_gif_and_webp_become_png(format_: str, options: dict[str, Any]) -> None:
    image = load(url(picture(format_, **options), f"image/{format_.lower()}"))
    assert (image.media_type, image.width, image.height) == ("image/png", 40, 30)
    with Pillow.open(io.BytesIO(image.data), formats=["PNG"]) as opened:
        assert (opened.size, opened.mode) == ((40, 30), "RGB")


@pytest.mark.parametrize("declared", ["image/png", "image/jpeg", "image/webp", "image/gif", "image/jpg"])
@pytest.mark.parametrize("real", ["PNG", "JPEG", "WEBP", "GIF"])
def test_the_bytes_decide_and_not_the_declared_type(declared: str, real: str) -> None:
    assert load(url(picture(real), declared)).media_type == ("image/jpeg" if real == "JPEG" else "image/png")


@pytest.mark.parametrize(
    "prefix",
    ["DATA:image/png;base64,", "data:IMAGE/PNG;BASE64,", "data:image/png;charset=utf-8;name=a.png;base64,"],
)
def test_forms_of_the_prefix(prefix: str) -> None:
    data = picture("PNG")
    assert load(prefix + base64.b64encode(data).decode()).data == data


B64 = base64.b64encode(picture("PNG")).decode()
FORMS: dict[str, tuple[str, str]] = {
    "empty": ("", "invalid_image_url"),
    "a word": ("secret", "invalid_image_url"),
    "file": ("file:///secret", "invalid_image_url"),
    "ftp": ("ftp://secret.example/x.png", "invalid_image_url"),
    "javascript": ("javascript:secret", "invalid_image_url"),
    "scheme only": ("data:", "invalid_image_url"),
    "no media type": (f"data:;base64,{B64}", "invalid_image_url"),
    "no base64": ("data:image/png,secret", "invalid_image_url"),
    "percent-encoded": ("data:image/png;utf8,%89PNG", "invalid_image_url"),
    "no comma": (f"data:image/png;base64{B64}", "invalid_image_url"),
    "leading space": (f" data:image/png;base64,{B64}", "invalid_image_url"),
    "endless parameters": ("data:image/png" + ";a=b" * 100_000 + f";base64,{B64}", "invalid_image_url"),
    "endless type": ("data:image/" + "p" * 100_000 + f";base64,{B64}", "invalid_image_url"),
    "svg": (f"data:image/svg+xml;base64,{B64}", "invalid_image_format"),
    "bmp": (f"data:image/bmp;base64,{B64}", "invalid_image_format"),
    "text": (f"data:text/html;base64,{B64}", "invalid_image_format"),
    "pdf": (f"data:application/pdf;base64,{B64}", "invalid_image_format"),
    "nothing": ("data:image/png;base64,", "invalid_image_format"),
    "base64 with a newline": (f"data:image/png;base64,{B64[:40]}\n{B64[40:]}", "invalid_image_url"),
    "base64 with a space": (f"data:image/png;base64,{B64[:40]} {B64[40:]}", "invalid_image_url"),
    "base64 with a star": (f"data:image/png;base64,*{B64[1:]}", "invalid_image_url"),
    "base64 for file names": (f"data:image/png;base64,-_{B64[2:]}", "invalid_image_url"),
    "base64 cut": (f"data:image/png;base64,{B64[:41]}", "invalid_image_url"),
    "base64 padded in the middle": (f"data:image/png;base64,AA=={B64}", "invalid_image_url"),
    "base64 over-padded": ("data:image/png;base64,AAAA====", "invalid_image_url"),
    "not ascii": ("data:image/png;base64,ÄÖÜß", "invalid_image_url"),
    "lone surrogate": ("data:image/png;base64,\ud800AAA", "invalid_image_url"),
}


@pytest.mark.parametrize(("text", "code"), FORMS.values(), ids=FORMS)
def test_urls_that_are_none(text: str, code: str) -> None:
    assert refusal(text).code == code


PNG, JPEG, GIF, WEBP = (picture(name) for name in ("PNG", "JPEG", "GIF", "WEBP"))
ZEROS = zlib.compress(bytes(64 << 20), 9)

BROKEN: dict[str, tuple[bytes, str]] = {
    "text": (b"hello, I am a picture", "invalid_image_format"),
    "bmp": (picture("BMP"), "invalid_image_format"),
    "tiff": (picture("TIFF"), "invalid_image_format"),
    "ppm": (picture("PPM"), "invalid_image_format"),
    "tga": (picture("TGA"), "invalid_image_format"),
    "icon": (picture("ICO"), "invalid_image_format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "invalid_image_format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_image_format"),
    "zip": (b"PK\x03\x04" + bytes(40), "invalid_image_format"),
    "wave": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "invalid_image_format"),
    "png after a space": (b" " + PNG, "invalid_image_format"),
    "png magic only": (PNG[:8], "image_parse_error"),
    "png half a header": (PNG[:20], "image_parse_error"),
    "png header only": (PNG[:33], "image_parse_error"),
    "png cut": (PNG[: len(PNG) * 2 // 3], "image_parse_error"),
    "png without IHDR": (PNG[:8] + PNG[33:], "image_parse_error"),
    "png with a broken checksum": (PNG[:29] + b"\0\0\0\0" + PNG[33:], "image_parse_error"),
    "png of no pixels": (png(0, 9, zlib.compress(b"")), "image_parse_error"),
    "png of bits that are no stream": (png(4, 4, b"not zlib at all"), "image_parse_error"),
    "png with too little data": (png(4, 4, zlib.compress(b"\0")), "image_parse_error"),
    "png of unknown colour": (png(4, 4, zlib.compress(bytes(20)), colour=5), "image_parse_error"),
    "png, 64 MiB behind one pixel": (png(1, 1, ZEROS), "image_parse_error"),
    "png bomb": (png(30_000, 30_000, ZEROS), "image_too_large"),
    "png of 2^31 pixels a side": (png(2**31 - 1, 2**31 - 1, ZEROS), "image_too_large"),
    "png, animated": (animation("PNG"), "invalid_image_format"),
    "jpeg magic only": (JPEG[:3], "image_parse_error"),
    "jpeg header only": (JPEG[: JPEG.index(b"\xff\xda")], "image_parse_error"),
    "jpeg cut": (JPEG[: JPEG.index(b"\xff\xda") + 30], "image_parse_error"),
    "jpeg without a frame": (b"\xff\xd8" + JPEG[JPEG.index(b"\xff\xda") :], "image_parse_error"),
    "jpeg noise": (b"\xff\xd8\xff" + b"\x11" * 99, "image_parse_error"),
    "jpeg of fill bytes": (b"\xff\xd8" + b"\xff" * 9999, "image_parse_error"),
    "jpeg with empty segments": (b"\xff\xd8" + b"\xff\xe1\0\0" * 9999, "image_parse_error"),
    "jpeg of no lines": (JPEG.replace(b"\x08\0\x1e\0\x28", b"\x08\0\0\0\x28"), "image_parse_error"),
    "jpeg, arithmetic coding": (JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "image_parse_error"),
    "jpeg bomb": (JPEG.replace(b"\x08\0\x1e\0\x28", b"\x08\xff\xdc\xff\xdc"), "image_too_large"),
    "jpeg of a thousand scans": (many_scans(picture("JPEG", progressive=True), 1000), "image_parse_error"),
    "gif magic only": (GIF[:6], "image_parse_error"),
    "gif cut": (GIF[:-40], "image_parse_error"),
    "gif without a frame": (GIF[:13] + b"\x3b", "image_parse_error"),
    "gif, animated": (animation("GIF"), "invalid_image_format"),
    "gif bomb": (GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:], "image_too_large"),
    "gif with a frame of 9000 a side": (gif_with_large_frame(9000), "image_too_large"),
    "gif with a frame of 10000 a side": (gif_with_large_frame(10_000), "image_too_large"),
    "gif with a frame of 65535 a side": (gif_with_large_frame(65_535), "image_too_large"),
    "webp magic only": (WEBP[:12], "image_parse_error"),
    "webp of an unknown kind": (WEBP[:12] + b"VP9 " + WEBP[16:], "image_parse_error"),
    "webp cut": (WEBP[: len(WEBP) // 2], "image_parse_error"),
    "webp, animated": (animation("WEBP"), "invalid_image_format"),
    "webp bomb": (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff" * 6 + bytes(8),
        "image_too_large",
    ),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_no_image(data: bytes, code: str) -> None:
    started = time.process_time()
    assert refusal(url(data)).code == code
    assert time.process_time() - started < 5  # seconds of CPU: how busy the machine is has no part in it


def test_the_message_names_the_limit() -> None:
    small = ImagePolicy(max_bytes=100, max_pixels=99)
    assert "99 pixels" in refusal(url(png(10, 10, b"")), small).message
    assert "100 bytes" in refusal(url(bytes(101)), small).message
    assert "animated" in refusal(url(animation("GIF"))).message


def test_the_text_is_measured_before_it_is_decoded() -> None:
    exact = ImagePolicy(max_bytes=len(PNG))
    assert load(url(PNG), exact).data == PNG
    for size in range(len(PNG) - 4, len(PNG)):
        assert refusal(url(PNG), ImagePolicy(max_bytes=size)).code == "image_too_large"
    assert refusal("data:image/png;base64," + "*" * 20_000_000).code == "image_too_large"


def test_pixels_are_compared_exactly() -> None:
    assert load(url(PNG), ImagePolicy(max_pixels=1200)).width == 40
    for data in (PNG, JPEG, GIF, WEBP):
        assert refusal(url(data), ImagePolicy(max_pixels=1199)).code == "image_too_large"


def test_every_cut_and_every_flipped_byte_is_an_image_or_a_400() -> None:
    """No damage leads to anything but an image or one of the four codes."""
    codes = {"image_parse_error", "invalid_image_format", "image_too_large"}
    outcomes: set[str | None] = set()
    for data in (PNG, JPEG, GIF, WEBP, animation("GIF"), picture("WEBP", exif=b"Exif\0\0")):
        damaged = [data[:end] for end in range(0, len(data), 7)]
        damaged += [data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(0, len(data), 5)]
        for one in damaged:
            try:
                load(url(one))
            except InvalidRequest as refused:
                outcomes.add(refused.code)
    assert outcomes <= codes


def test_the_loop_is_free_while_a_large_image_is_decoded() -> None:
    big = url(picture("PNG", (5000, 5000), compress_level=1))

    async def run() -> int:
        turns = 0
        task = asyncio.create_task(load_image(big, param=PARAM, policy=POLICY, fetcher=None))
        while not task.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert (await task).width == 5000
        return turns

    assert asyncio.run(run()) >= 10


REMOTE = "https://images.example/secret.png"


@pytest.mark.parametrize("address", [REMOTE, "http://images.example/secret.png", "HTTPS://images.example/s"])
@pytest.mark.parametrize("fetcher", [None, Canned(PNG)])
def test_remote_urls_are_off(address: str, fetcher: Canned | None) -> None:
    refused = refusal(address, POLICY, fetcher)
    assert refused.code == "invalid_image_url"
    assert "disabled on this server" in refused.message
    assert "data URL" in refused.message
    assert fetcher is None or fetcher.asked == []


ALLOWED = ImagePolicy(allow_urls=True, timeout=3.5)


def test_allowed_without_a_fetcher_is_off() -> None:
    assert "disabled" in refusal(REMOTE, ALLOWED, None).message


def test_a_remote_image_is_verified_like_any_other() -> None:
    fetcher = Canned(PNG)
    assert load(REMOTE, ALLOWED, fetcher).data == PNG
    assert fetcher.asked == [(REMOTE, ALLOWED.max_bytes, 3.5)]
    assert load(REMOTE, ALLOWED, Canned(WEBP)).media_type == "image/png"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (FetchError("no"), "invalid_image_url"),
        (FetchError("no", code="image_too_large"), "image_too_large"),
        (b"<html>", "invalid_image_format"),
        (PNG[:40], "image_parse_error"),
        (animation("GIF"), "invalid_image_format"),
        (bytes(ALLOWED.max_bytes + 1), "image_too_large"),
    ],
)
def test_a_remote_image_that_is_none(answer: bytes | FetchError, code: str) -> None:
    assert refusal(REMOTE, ALLOWED, Canned(answer)).code == code


def test_an_endless_remote_url() -> None:
    assert refusal(REMOTE + "?" + "a" * 5000, ALLOWED, Canned(PNG)).code == "invalid_image_url"


@pytest.mark.parametrize(
    "make",
    [
        lambda secret: f"https://{secret}.example/{secret}",
        lambda secret: f"data:image/{secret};base64,AAAA",
        lambda secret: f"data:image/png;{secret},AAAA",
        lambda secret: f"data:image/png;base64,{secret}!",
        lambda secret: url(secret.encode()),
        lambda secret: f"{secret}://x",
    ],
)
def test_no_refusal_repeats_the_url(make: Callable[[str], str]) -> None:
    refused = refusal(make("canary4711"))
    assert "canary" not in str(refused.body())
    assert refused.__cause__ is None
    assert refused.__suppress_context__


def test_the_number_of_images() -> None:
    check_count(16, param="messages", policy=POLICY)
    with pytest.raises(InvalidRequest) as caught:
        check_count(17, param="messages", policy=POLICY)
    assert (caught.value.code, caught.value.param) == ("too_many_images", "messages")


def test_the_bytes_stay_out_of_the_text_form() -> None:
    assert "PNG" not in repr(Image(PNG, "image/png", 40, 30))
