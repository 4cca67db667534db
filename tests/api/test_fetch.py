"""The fetcher against a real TLS server, and against names and addresses that must never be connected to.

The server listens on loopback, which the fetcher refuses. So the names here resolve to public addresses,
and a transport behind the checks leads these to the server; everything before and after (names,
addresses, TLS) is the real thing.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme

from confide.api import fetch
from confide.api.fetch import FetchError, PinnedFetcher, is_public, pinned_transport, resolve

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(5000)
PUBLIC = "93.184.216.34"
PUBLIC6 = "2606:2800:220:1::1"
NAME = "images.example.com"

Headers = dict[str, str]
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Leading(httpx.AsyncBaseTransport):
    """Leads every connection to one local port, and notes where it should have gone."""

    def __init__(self, inner: httpx.AsyncHTTPTransport, port: int) -> None:
        self.inner = inner
        self.port = port
        self.hosts: list[str] = []
        self.dead: set[str] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.hosts.append(request.url.host)
        if request.url.host in self.dead:
            raise httpx.ConnectError("refused")
        request.url = request.url.copy_with(host="127.0.0.1", port=self.port)
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Forbidden(httpx.AsyncBaseTransport):
    """No connection may be made."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError("a connection was made")


class Names:
    """A resolver from a table, that counts."""

    def __init__(self, table: dict[str, Sequence[str]] | None = None) -> None:
        self.table: dict[str, Sequence[str]] = {NAME: [PUBLIC]} | (table or {})
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if host not in self.table:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.table[host]


class Place:
    """A server, a way to it, and what it was asked."""

    def __init__(self, fetcher: PinnedFetcher, leading: Leading, names: Names) -> None:
        self.fetcher = fetcher
        self.leading = leading
        self.names = names
        self.requests: list[str] = []

    async def get(self, url: str, *, max_bytes: int = 100_000, seconds: float = 5.0) -> bytes:
        return await self.fetcher.fetch(url, max_bytes=max_bytes, seconds=seconds)

    async def refusal(self, url: str, *, max_bytes: int = 100_000, seconds: float = 5.0) -> FetchError:
        with pytest.raises(FetchError) as caught:
            await self.get(url, max_bytes=max_bytes, seconds=seconds)
        return caught.value


@asynccontextmanager
async def place(
    authority: trustme.CA,
    handler: Handler,
    *,
    certificate_for: Sequence[str] = (NAME,),
    names: Names | None = None,
    trusted: bool = True,
) -> AsyncIterator[Place]:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*certificate_for).configure_cert(server_context)
    client_context = ssl.create_default_context()
    if trusted:
        authority.configure_trust(client_context)
    here: Place

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            here.requests.append(request)
            await handler(request, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    leading = Leading(pinned_transport(client_context), server.sockets[0].getsockname()[1])
    names = names or Names()
    fetcher = PinnedFetcher(resolver=names, transport=leading)
    here = Place(fetcher, leading, names)
    try:
        yield here
    finally:
        await fetcher.aclose()
        server.close()
        await asyncio.sleep(0.02)  # let the server's half of TLS close


def answer(
    body: bytes = IMAGE, *, status: str = "200 OK", headers: Headers | None = None, length: int | None = -1
) -> Handler:
    """One response, whatever is asked."""
    fields = {"Content-Type": "image/png"} | (headers or {})
    if length is not None:
        fields["Content-Length"] = str(len(body) if length == -1 else length)
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{key}: {text}\r\n" for key, text in fields.items() if text)

    async def handle(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + b"\r\n" + body)

    return handle


def redirect(location: str | None, status: str = "302 Found") -> Handler:
    return answer(b"", status=status, headers={"Location": location} if location else None)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_an_image(authority: trustme.CA) -> None:
    async def run() -> None:
        async with place(authority, answer()) as here:
            assert await here.get(f"https://{NAME}/a%20b.png?x=1#part") == IMAGE
            assert here.leading.hosts == [PUBLIC]
            assert here.names.asked == [(NAME, 443)]
            request = here.requests[0].lower()
            assert request.startswith("get /a%20b.png?x=1 http/1.1\r\n")
            assert f"\r\nhost: {NAME}\r\n" in request
            assert "\r\naccept-encoding: identity\r\n" in request
            assert "\r\nconnection: close\r\n" in request
            assert "cookie" not in request
            assert "authorization" not in request

    asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [f"https://{NAME}:443/x", f"HTTPS://{NAME.upper()}/x", f"https://{NAME}", f"https://{NAME}/%2e%2e/x"],
)
def test_forms_of_the_url(authority: trustme.CA, url: str) -> None:
    async def run() -> None:
        async with place(authority, answer()) as here:
            assert await here.get(url) == IMAGE

    asyncio.run(run())


def test_forms_of_the_answer(authority: trustme.CA) -> None:
    chunked = f"{len(IMAGE):x}\r\n".encode() + IMAGE + b"\r\n0\r\n\r\n"
    handlers = [
        answer(length=None, headers={"Connection": "close"}),
        answer(chunked, length=None, headers={"Transfer-Encoding": "chunked"}),
        answer(headers={"Content-Encoding": "identity"}),
        answer(headers={"Content-Type": "IMAGE/WEBP; q=1"}),
        answer(headers={"Set-Cookie": "a=b"}),
    ]

    async def run() -> None:
        for handler in handlers:
            async with place(authority, handler) as here:
                assert await here.get(f"https://{NAME}/") == IMAGE
                assert await here.get(f"https://{NAME}/") == IMAGE
                assert "cookie" not in here.requests[1].lower()

    asyncio.run(run())


def test_a_public_address_as_host(authority: trustme.CA) -> None:
    async def run() -> None:
        async with place(authority, answer(), certificate_for=(PUBLIC, PUBLIC6)) as here:
            assert await here.get(f"https://{PUBLIC}/") == IMAGE
            assert await here.get(f"https://[{PUBLIC6}]/") == IMAGE
            assert here.leading.hosts == [PUBLIC, PUBLIC6]
            assert here.names.asked == []
            assert f"Host: [{PUBLIC6}]\r\n" in here.requests[1]

    asyncio.run(run())


def test_the_next_address_when_one_is_dead(authority: trustme.CA) -> None:
    async def run() -> None:
        async with place(authority, answer(), names=Names({NAME: [PUBLIC6, PUBLIC]})) as here:
            here.leading.dead = {PUBLIC6}
            assert await here.get(f"https://{NAME}/") == IMAGE
            here.leading.dead = {PUBLIC6, PUBLIC}
            assert (await here.refusal(f"https://{NAME}/")).message == fetch.FAILED

    asyncio.run(run())


@pytest.mark.parametrize("certificate_for", [("other.example.com",), (PUBLIC,), ("*.images.example.com",)])
def test_a_certificate_of_another_name(authority: trustme.CA, certificate_for: tuple[str]) -> None:
    async def run() -> None:
        async with place(authority, answer(), certificate_for=certificate_for) as here:
            assert (await here.refusal(f"https://{NAME}/")).message == fetch.FAILED
            assert here.requests == []

    asyncio.run(run())


def test_an_unknown_authority(authority: trustme.CA) -> None:
    async def run() -> None:
        async with place(authority, answer(), trusted=False) as here:
            assert (await here.refusal(f"https://{NAME}/")).message == fetch.FAILED
            assert here.requests == []

    asyncio.run(run())


def test_two_names_on_one_address_share_no_connection(authority: trustme.CA) -> None:
    """Else the second name would be served under the certificate of the first."""

    async def run() -> None:
        names = Names({"evil.example.com": [PUBLIC]})
        async with place(authority, answer(headers={"Connection": "keep-alive"}), names=names) as here:
            assert await here.get(f"https://{NAME}/") == IMAGE
            await here.refusal("https://evil.example.com/")
            assert len(here.requests) == 1

    asyncio.run(run())


BAD_ANSWERS: dict[str, tuple[Handler, str]] = {
    "not found": (answer(status="404 Not Found"), "invalid_image_url"),
    "server error": (answer(status="500 Oops"), "invalid_image_url"),
    "part": (answer(status="206 Partial Content"), "invalid_image_url"),
    "no content": (answer(b"", status="204 No Content", length=None), "invalid_image_url"),
    "not modified": (answer(b"", status="304 Not Modified", length=None), "invalid_image_url"),
    "html": (answer(headers={"Content-Type": "text/html"}), "invalid_image_format"),
    "json": (answer(headers={"Content-Type": "application/json"}), "invalid_image_format"),
    "no type": (answer(headers={"Content-Type": ""}), "invalid_image_format"),
    "nearly a type": (answer(headers={"Content-Type": "imagex/png"}), "invalid_image_format"),
    "gzip": (answer(gzip.compress(IMAGE), headers={"Content-Encoding": "gzip"}), "invalid_image_url"),
    "brotli": (answer(headers={"Content-Encoding": "br"}), "invalid_image_url"),
    "two encodings": (answer(headers={"Content-Encoding": "identity, gzip"}), "invalid_image_url"),
    "announced too large": (answer(b"", length=100_001), "image_too_large"),
    "too large, unannounced": (answer(bytes(100_001), length=None), "image_too_large"),
    "cut off": (answer(length=len(IMAGE) + 1), "invalid_image_url"),
    "bad length": (answer(headers={"X": "y\r\nContent-Length: many"}, length=None), "invalid_image_url"),
    "not http": (answer(status="\r\n\r\n"), "invalid_image_url"),
    "endless header": (answer(headers={"X": "y" * 200_000}), "invalid_image_url"),
    "redirect to nowhere": (redirect(None), "invalid_image_url"),
    "redirect to itself": (redirect(f"https://{NAME}/"), "invalid_image_url"),
    "unasked upgrade": (answer(b"", status="101 Switching Protocols", length=None), "invalid_image_url"),
}


@pytest.mark.parametrize(("handler", "code"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_answers_that_are_no_image(authority: trustme.CA, handler: Handler, code: str) -> None:
    async def run() -> None:
        async with place(authority, handler) as here:
            assert (await here.refusal(f"https://{NAME}/")).code == code

    asyncio.run(run())


def test_the_limit_is_exact(authority: trustme.CA) -> None:
    async def run() -> None:
        for length in (-1, None):
            async with place(authority, answer(length=length)) as here:
                assert await here.get(f"https://{NAME}/", max_bytes=len(IMAGE)) == IMAGE
                refused = await here.refusal(f"https://{NAME}/", max_bytes=len(IMAGE) - 1)
                assert refused.code == "image_too_large"

    asyncio.run(run())


def test_an_endless_body_is_left_at_the_limit(authority: trustme.CA) -> None:
    async def handle(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async def run() -> None:
        async with place(authority, handle) as here:
            assert (await here.refusal(f"https://{NAME}/")).code == "image_too_large"

    asyncio.run(run())


async def _silent(request: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1)


async def _dripping(request: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    for _ in range(50):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _slowly_around(request: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.15)
    writer.write(f"HTTP/1.1 302 Found\r\nLocation: https://{NAME}/\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.parametrize("handler", [_silent, _dripping, _slowly_around])
def test_one_deadline_over_everything(authority: trustme.CA, handler: Handler) -> None:
    async def run() -> None:
        async with place(authority, handler) as here:
            started = time.monotonic()
            assert (await here.refusal(f"https://{NAME}/", seconds=0.3)).message == fetch.TIMED_OUT
            assert time.monotonic() - started < 0.9

    asyncio.run(run())


def test_a_slow_resolver_is_under_the_deadline_too() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    refused = refuse_offline(f"https://{NAME}/", never, seconds=0.05)
    assert refused.message == fetch.TIMED_OUT


def refuse_offline(url: str, names: fetch.Resolver | None = None, seconds: float = 5.0) -> FetchError:
    """The refusal of a URL for which no connection may be made."""

    async def run() -> FetchError:
        fetcher = PinnedFetcher(resolver=names or Names(), transport=Forbidden())
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch(url, max_bytes=1000, seconds=seconds)
        await fetcher.aclose()
        return caught.value

    return asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "//",
        "https://",
        "https:///x",
        "images.example.com/x",
        f"http://{NAME}/",
        f"http://{NAME}:443/",
        f"ftp://{NAME}/",
        f"gopher://{NAME}/",
        "file:///etc/passwd",
        f"https://user@{NAME}/",
        f"https://user:password@{NAME}/",
        f"https://:password@{NAME}/",
        f"https://{NAME}:80/",
        f"https://{NAME}:22/",
        f"https://{NAME}:8443/",
        f"https://{NAME}:0/",
        f"https://{NAME}:99999/",
        f"https://{NAME}:x/",
        f"https://{NAME}\\@other.example.com/",
        f"https://{NAME}\t/",
        f"https://{NAME}/\r\nX: y",
        "https://exa mple.com/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://xn--\x00.example.com/",
        "https://" + "a" * 300 + ".example.com/",
        "https://unknown.example.com/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://localhost./",
        "https://a.localhost/",
        "https://metadata/",
        "https://intranet/",
        "https://metadata.google.internal/computeMetadata/v1/",
        "https://metadata.google.internal./",
        "https://instance-data.ec2.internal/",
        "https://printer.local/",
        "https://router.home.arpa/",
        "https://kubernetes.default.svc.cluster.local/",
    ],
)
def test_urls_that_are_not_followed(url: str) -> None:
    public = Names({"localhost": [PUBLIC], "metadata": [PUBLIC], "metadata.google.internal": [PUBLIC]})
    refused = refuse_offline(url, public)
    assert refused.code == "invalid_image_url"
    assert "secret" not in refused.message


UNSAFE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::a00:1",
    "::808:808",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::ffff:0:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:db8::1",
    "2002:a00:1::",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%lo",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "2606:4700::1%1",
]
SAFE = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize("text", UNSAFE)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    for found in ([text], [PUBLIC, text], [text, PUBLIC6], [PUBLIC, PUBLIC6, PUBLIC, text]):
        refused = refuse_offline(f"https://{NAME}/", Names({NAME: found}))
        assert refused.message == fetch.NOT_ALLOWED


@pytest.mark.parametrize("text", [text for text in UNSAFE if "%" not in text])
def test_the_same_addresses_as_hosts(text: str) -> None:
    host = f"[{text}]" if ":" in text else text
    names = Names()
    assert refuse_offline(f"https://{host}/", names).message == fetch.NOT_ALLOWED
    assert names.asked == []


@pytest.mark.parametrize("text", SAFE)
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("found", [[], ["nonsense"], [PUBLIC, ""], ["127.1"]])
def test_a_resolver_that_says_nothing_useful(found: list[str]) -> None:
    assert refuse_offline(f"https://{NAME}/", Names({NAME: found})).message == fetch.NOT_ALLOWED


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0", "①②⑦.⓪.⓪.①", "127。0。0。1"]
)
def test_odd_ways_to_write_loopback(host: str) -> None:
    """With the system's own resolver, which knows what they mean, and needs no network for them."""
    assert refuse_offline(f"https://{host}/", resolve).code == "invalid_image_url"


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[fd00:ec2::254]/",
        "https://2130706433/",
        "https://localhost/",
        "https://mixed.example.com/",
        "https://private.example.com/",
        "https://metadata.google.internal/",
        f"https://user:password@{NAME}/",
        f"https://{NAME}:8080/",
        f"http://{NAME}/",
        "//private.example.com/x",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "https://[",
        "\x7f\x01",
    ],
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Again", "308 For Good"])
def test_redirects_that_are_not_followed(authority: trustme.CA, location: str, status: str) -> None:
    async def run() -> None:
        names = Names(
            {
                "mixed.example.com": [PUBLIC, "10.0.0.1"],
                "private.example.com": ["192.168.1.1"],
                "2130706433": ["127.0.0.1"],
            }
        )
        async with place(authority, redirect(location, status), names=names) as here:
            assert (await here.refusal(f"https://{NAME}/")).code == "invalid_image_url"
            assert here.leading.hosts == [PUBLIC]

    asyncio.run(run())


def hops(count: int) -> Handler:
    """Redirects ``/count`` to ``/count-1`` and so on, relative and absolute in turn; ``/0`` is the
    image."""

    async def handle(request: str, writer: asyncio.StreamWriter) -> None:
        left = int(request.split()[1].strip("/"))
        if left == 0:
            return await answer()(request, writer)
        where = f"/{left - 1}" if left % 2 else f"https://other.example.com/{left - 1}"
        return await redirect(where)(request, writer)

    return handle


def test_three_redirects_and_not_four(authority: trustme.CA) -> None:
    async def run() -> None:
        names = Names({"other.example.com": [PUBLIC6]})
        both = (NAME, "other.example.com")
        async with place(authority, hops(3), certificate_for=both, names=names) as here:
            assert await here.get(f"https://{NAME}/3") == IMAGE
            assert here.leading.hosts == [PUBLIC, PUBLIC, PUBLIC6, PUBLIC6]
            assert len(here.names.asked) == 4
            assert "too often" in (await here.refusal(f"https://{NAME}/4")).message

    asyncio.run(run())


def test_a_name_that_turns_private_between_two_hops(authority: trustme.CA) -> None:
    """DNS rebinding: what was checked is what is connected to, and a second look-up is a second check."""

    class Turning(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            await super().__call__(host, port)
            return [PUBLIC] if len(self.asked) == 1 else ["127.0.0.1"]

    async def run() -> None:
        async with place(authority, hops(1), names=Turning()) as here:
            assert (await here.refusal(f"https://{NAME}/1")).message == fetch.NOT_ALLOWED
            assert here.leading.hosts == [PUBLIC]

    asyncio.run(run())


def test_no_proxy_from_the_environment(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def run() -> None:
        async with place(authority, answer()) as here:
            assert await here.get(f"https://{NAME}/") == IMAGE

    asyncio.run(run())


def test_no_refusal_repeats_the_url() -> None:
    for url in ("https://canary.local/canary", "https://canary.example.com/canary", "canary:canary"):
        refused = refuse_offline(url)
        assert "canary" not in str(refused)
        assert refused.__cause__ is None


def test_the_default_checks_certificates() -> None:
    async def run() -> None:
        fetcher = PinnedFetcher()
        await fetcher.aclose()

    asyncio.run(run())
    context = httpx.create_ssl_context(trust_env=False)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_the_systems_resolver() -> None:
    assert "127.0.0.1" in asyncio.run(resolve("127.0.0.1", 443))
