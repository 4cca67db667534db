"""Bounded GETs and the cache of what they gave."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from confide.errors import OperatorError
from confide.verify.fetch.base import Cache, Refused, Unreachable, get
from confide.verify.material import MOST_BYTES, Item

URL = "https://vendor.example/path?query=1"
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(handler))


def answering(status: int = 200, **more: object) -> Handler:
    return lambda request: httpx.Response(status, **more)  # type: ignore[arg-type]


def test_whole_answer() -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=b"body", headers={"X-Chain": "one"})

    with client(handler) as http:
        fetched = get(http, URL, headers={"accept": "x"})
    assert fetched.body == b"body"
    assert fetched.headers["x-chain"] == "one"
    assert (asked[0].method, str(asked[0].url), asked[0].headers["accept"]) == ("GET", URL, "x")


def test_empty_answer_is_one() -> None:
    with client(answering()) as http:
        assert get(http, URL).body == b""


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 400, 401, 404, 429, 500, 503])
def test_other_status_is_refused(status: int) -> None:
    says = rf"vendor\.example answered {status} to GET /path"
    handler = answering(status, headers={"location": "https://other.example/"})
    with client(handler) as http, pytest.raises(Refused, match=says) as refused:
        get(http, URL)
    assert isinstance(refused.value, OperatorError)
    assert refused.value.exit_code == 4


def test_redirects_are_not_followed_even_by_a_client_that_would() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(302, headers={"location": "https://other.example/"})

    with httpx.Client(transport=httpx.MockTransport(handler), follow_redirects=True) as http, pytest.raises(Refused):
        get(http, URL)
    assert hosts == ["vendor.example"]


def test_long_answer_is_cut_while_it_arrives() -> None:
    given: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            given.append(number)
            yield b"x" * 100

    says = r"vendor\.example sent more than 250 bytes"
    with client(lambda _: httpx.Response(200, content=endless())) as http, pytest.raises(Unreachable, match=says):
        get(http, URL, most=250)
    assert len(given) == 3


def test_the_limit_itself_is_allowed() -> None:
    with client(answering(content=b"x" * 250)) as http:
        assert len(get(http, URL, most=250).body) == 250


def test_compressed_answer_is_refused_before_it_is_unpacked() -> None:
    packed = gzip.compress(bytes(1_000_000))
    handler = answering(content=packed, headers={"content-encoding": "gzip"})
    with client(handler) as http, pytest.raises(Refused, match="compressed"):
        get(http, URL, most=2000)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("no route"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout(""),
        httpx.RemoteProtocolError("cut off"),
        httpx.DecodingError("no gzip"),
    ],
)
def test_no_answer_is_unreachable(failure: httpx.HTTPError) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise failure

    with client(handler) as http, pytest.raises(Unreachable, match=r"vendor\.example can't be reached: \w+") as reached:
        get(http, URL)
    assert reached.value.exit_code == 4


# The cache -----------------------------------------------------------------------------------------------------------


def item(data: bytes = b"one", key: str = "k/../e\ny") -> Item:
    return Item("amd-crl", key, data, "network")


def test_kept_item_comes_back_from_the_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.load("amd-crl", "k/../e\ny") is None
    cache.keep(item())
    assert cache.load("amd-crl", "k/../e\ny") == Item("amd-crl", "k/../e\ny", b"one", "cache")
    cache.keep(item(b"two"))
    found = cache.load("amd-crl", "k/../e\ny")
    assert found is not None
    assert found.data == b"two"


def test_keys_and_kinds_are_apart_and_stay_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = Cache(folder)
    cache.keep(item(key="../../../escape"))
    cache.keep(item(b"other", key="other"))
    assert cache.load("amd-crl", "else") is None
    assert cache.load("jwks", "other") is None
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(path.parent == folder / "amd-crl" and len(path.name) == 64 for path in files)


def test_file_that_is_too_long_is_not_there(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep(item(bytes(MOST_BYTES + 1)))
    assert cache.load("amd-crl", item().key) is None
    cache.keep(item(bytes(MOST_BYTES)))
    assert cache.load("amd-crl", item().key) is not None


def test_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file")
    cache.keep(item())
    assert cache.load("amd-crl", item().key) is None


def test_no_other_files_are_left(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(3):
        cache.keep(item(bytes([number])))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
