"""What the server sends for the page: headers, caching, compression, and nothing but its files."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from confide.api.page import INDEX, MOST_BYTES, Page
from tests.conftest import ROOT
from tests.proof.talking import EchoServer
from tests.rawhttp import Connection, request

WEB = Path(str(files("confide") / "web"))
MOST_COMPRESSED = 300_000
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}


@pytest.fixture
def http(echo: EchoServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{echo.port}", headers={"Accept-Encoding": "identity"}) as client:
        yield client


def links(index: str) -> list[str]:
    """Every file that the page names."""
    return re.findall(r'(?:href|src)="(/[^"]+)"', index)


def test_every_answer_of_the_page_is_guarded(http: httpx.Client) -> None:
    index = http.get("/")
    for answer in (index, *(http.get(link) for link in links(index.text))):
        assert answer.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_types_are_those_that_browsers_ask_for(http: httpx.Client) -> None:
    index = http.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    wanted = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    for link in links(index.text):
        assert http.get(link).headers["content-type"] == wanted[link.rpartition(".")[2]], link


def test_files_are_kept_for_ever_and_the_index_is_asked_for(http: httpx.Client) -> None:
    index = http.get("/")
    assert index.headers["cache-control"] == "no-cache"
    script = next(link for link in links(index.text) if link.endswith("/app.js"))
    answer = http.get(script)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    for url, first in (("/", index), (script, answer)):
        etag = first.headers["etag"]
        again = http.get(url, headers={"If-None-Match": f'"other", W/{etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.5", "deflate, GZIP"])
def test_compressed_where_that_is_taken(http: httpx.Client, accepted: str) -> None:
    plain = http.get("/")
    with http.stream("GET", "/", headers={"Accept-Encoding": accepted}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["vary"]
    assert answer.headers["etag"] != plain.headers["etag"]
    assert gzip.decompress(packed) == plain.content


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", "gzip; q=0.000", "*", "gzipped"])
def test_plain_where_that_is_not(http: httpx.Client, accepted: str) -> None:
    answer = http.get("/", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize("path", ["/", "icon.svg", "/page/development-roots.pem"])
def test_head_says_the_same_without_a_body(http: httpx.Client, path: str) -> None:
    if not path.startswith("/"):
        path = next(link for link in links(http.get("/").text) if link.endswith(path))
    whole, head = http.get(path), http.head(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length", "cache-control", "content-security-policy"):
        assert head.headers[name] == whole.headers[name]


def outside(http: httpx.Client) -> list[str]:
    folder = links(http.get("/").text)[0].rpartition("/")[0]
    return [
        f"{folder}/../api/page.py",
        f"{folder}/..%2f..%2fapi%2fpage.py",
        f"{folder}/%2e%2e/%2e%2e/py.typed",
        f"{folder}//etc/passwd",
        f"{folder}/index.html",
        f"{folder}/",
        f"{folder}/nothing.js",
        folder,
        "/page/0000000000000000/app.js",
        "/page/",
        "/page",
        "/index.html",
        "/favicon.ico",
    ]


def test_nothing_else_is_there(http: httpx.Client, echo: EchoServer) -> None:
    for path in outside(http):
        with Connection(echo.port) as connection:  # httpx would tidy the path up
            connection.send(request("GET", path, {"Host": "localhost"}))
            answer = connection.answer(to="GET")
        assert answer.status == 404, path
        answer.error()


def test_other_methods_are_refused(http: httpx.Client) -> None:
    assert http.post("/").status_code == 405
    assert http.put("/page/development-roots.pem").status_code == 405


def test_the_digest_can_be_made_by_hand(http: httpx.Client) -> None:
    """By the commands of the documentation, from the files of an installation."""
    (commands,) = re.findall(
        r"^  ```sh\n(.+?)^  ```", (ROOT / "docs" / "page.md").read_text(), re.MULTILINE | re.DOTALL
    )
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-euc", commands], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert f'data-page="sha256:{done.stdout.split()[0]}"' in http.get("/").text
    assert Page.load().digest == f"sha256:{done.stdout.split()[0]}"


def test_the_folder_changes_with_any_file() -> None:
    first, second = (Page({INDEX: b"<{folder}>", "app.js": script}) for script in (b"1", b"2"))
    assert first.digest != second.digest


@pytest.mark.parametrize("found", [{"app.js": b""}, {INDEX: bytes(MOST_BYTES + 1)}])
def test_a_page_that_is_none_or_too_large(found: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"expected index\.html among"):
        Page(found)


def test_the_whole_page_is_small() -> None:
    size = Page.load().size
    print(f"the page with all scripts: {size} bytes compressed")
    assert size < MOST_COMPRESSED


def test_every_script_of_the_folder_is_fetched_at_once(http: httpx.Client) -> None:
    preloaded = re.findall(r'rel="modulepreload" href="/page/[0-9a-f]{16}/([^"]+)"', http.get("/").text)
    assert sorted(preloaded) == sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*.js"))


def test_development_roots_are_those_of_the_machine(http: httpx.Client, echo: EchoServer) -> None:
    roots = http.get("/page/development-roots.pem")
    assert roots.headers["content-type"] == "application/x-pem-file"
    assert roots.content == (echo.data / "dev-pki" / "development-roots.pem").read_bytes()
