"""Images through the running server: the real engine with a small projector of random weights, so text is nonsense."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from confide.engine.pull import LocalModel
from tests.serving import RunningServer, serving
from tests.vision.mmproj import Tower, write_mmproj
from tests.vision.pictures import picture


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One model that sees and one that doesn't, in one process."""
    folder = tmp_path_factory.mktemp("vision")
    projector = write_mmproj(folder / "mmproj.gguf", Tower(projection=576), seed=7)
    config = folder / "confide.toml"
    source = json.dumps(str(smollm2.path))
    config.write_text(
        f'[[model]]\nid = "seeing"\nsource = {source}\nprojector = {json.dumps(str(projector))}\nslots = 1\n'
        f'context_length = 2048\n[[model]]\nid = "blind"\nsource = {source}\nslots = 1\ncontext_length = 2048\n'
    )
    with serving(folder, [], "--config", str(config), auth=False, model="seeing") as running:
        yield running


def ask(server: RunningServer, *urls: str, model: str = "seeing", **members: Any) -> httpx.Response:
    """Ask what is to be seen."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 6, "temperature": 0}
    return httpx.post(f"{server.url}/chat/completions", json=body | members, timeout=120)


def prompt_tokens(response: httpx.Response) -> int:
    """What the prompt cost."""
    assert response.status_code == 200, response.text
    return int(response.json()["usage"]["prompt_tokens"])


def test_models_say_what_they_take(server: RunningServer) -> None:
    models = {model["id"]: model for model in httpx.get(f"{server.url}/models").json()["data"]}
    assert models["seeing"]["input_modalities"] == ["text", "image"]
    assert models["blind"]["input_modalities"] == ["text"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_an_image_reaches_the_model(server: RunningServer, kind: str) -> None:
    """It costs prompt tokens, in every format that is allowed."""
    assert prompt_tokens(ask(server, picture(kind))) > prompt_tokens(ask(server)) + 8


def test_two_images_cost_more_than_one(server: RunningServer) -> None:
    one = prompt_tokens(ask(server, picture("PNG")))
    assert prompt_tokens(ask(server, picture("PNG"), picture("PNG", "blue"))) > one + 8


def test_a_stream_with_an_image(server: RunningServer) -> None:
    text = ask(server, picture("PNG"), stream=True).text
    assert text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"' in text


def bomb() -> str:
    """A PNG of 30,000 x 30,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4_000_000)))
    return "data:image/png;base64," + base64.b64encode(data + chunk(b"IEND", b"")).decode()


ANIMATED = picture("GIF", save_all=True, append_images=[Image.new("RGB", (64, 64), "blue")])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (bomb(), "image_too_large"),
        (picture("PNG")[:-40], "image_parse_error"),
        (ANIMATED, "invalid_image_format"),
        (picture("BMP"), "invalid_image_format"),
        ("data:image/png;base64,AAAA", "invalid_image_format"),
        ("data:image/png;base64,***", "invalid_image_url"),
        ("https://example.com/cat.png", "invalid_image_url"),
        ("http://169.254.169.254/latest/meta-data", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("cat.png", "invalid_image_url"),
        ("", "invalid_image_url"),
    ],
    ids=["bomb", "cut", "animated", "bmp", "not-png", "not-base64", "https", "metadata", "file", "relative", "empty"],
)
def test_bad_images_are_refused_and_the_server_goes_on(server: RunningServer, url: str, code: str) -> None:
    response = ask(server, url)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code, error
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert prompt_tokens(ask(server)) > 0


def test_too_many_images(server: RunningServer) -> None:
    assert ask(server, *[picture("PNG", size=(8, 8))] * 17).json()["error"]["code"] == "too_many_images"


def test_a_model_that_does_not_see_says_so(server: RunningServer) -> None:
    error = ask(server, picture("PNG"), model="blind").json()["error"]
    assert "'blind'" in error["message"]
    assert error["param"] == "messages[0].content[1].type"
