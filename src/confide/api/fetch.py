"""Downloading an image for a client without becoming the client's way into this network.

The rules, checked for the URL and again for each redirect:

1. https on port 443, no user name or password, and not a name that is local by convention.
2. The name is resolved once. One address that is not public refuses the whole name.
3. The connection goes to the address that was checked; the certificate is verified against the name.
4. Status 200, an image type, no content encoding, at most so many bytes, and one deadline over all of it.

No proxy, cookie, credential or connection of an earlier request takes part.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import httpx

from confide.api.images import FetchError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

UNSAFE_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; one cloud's metadata service is in it
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's platform service, on an address that looks public
        "169.254.0.0/16",  # link-local, the usual metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as 198.51.100 and 203.0.113
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
UNSAFE_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, whatever address is inside
        "2620:4f:8000::/48",
        "3fff::/20",  # documentation
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
LOCAL_NAMES = (
    "localhost",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "private",
    "home.arpa",
    "test",
)
MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "confide", "Connection": "close"}

NOT_ALLOWED = "Invalid image URL. This server does not download from that address."
FAILED = "Invalid image URL. The image could not be downloaded."
TIMED_OUT = "Invalid image URL. The image could not be downloaded in time."


@dataclass(frozen=True)
class _Target:
    url: httpx.URL
    addresses: tuple[Address, ...]


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a name, as the system's resolver gives them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet at large, and stands for no other."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in UNSAFE_V4)
    if address in NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.scope_id is not None or address not in PUBLIC_V6:
        return False
    return not any(address in network for network in UNSAFE_V6)


def pinned_transport(context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """Connections for one request each.

    A kept one would be found again by its address, and serve another name than its certificate was
    verified for.
    """
    once = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=once)


class PinnedFetcher:
    """A :class:`Fetcher` that connects to nothing but the public address it has checked.

    ``context`` is for an operator's own certificate authorities. ``transport`` is handed requests for
    addresses that passed; a test puts one there that leads them to a local server. No argument weakens a
    check.
    """

    def __init__(
        self,
        *,
        resolver: Resolver = resolve,
        context: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._resolver = resolver
        self._transport = transport or pinned_transport(context or httpx.create_ssl_context(trust_env=False))

    async def fetch(self, url: str, *, max_bytes: int, seconds: float) -> bytes:
        """The body behind an https URL, all rules of this module kept."""
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(httpx.URL(url), max_bytes, seconds)
        except TimeoutError:
            raise FetchError(TIMED_OUT) from None
        except httpx.TimeoutException:
            raise FetchError(TIMED_OUT) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError):
            raise FetchError(FAILED) from None

    async def aclose(self) -> None:
        """Close what is open."""
        await self._transport.aclose()

    async def _follow(self, url: httpx.URL, max_bytes: int, seconds: float) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._connect(await self._check(url), seconds)
            async with aclosing(response):
                if response.status_code not in REDIRECTS:
                    return await _body(response, max_bytes)
                url = url.join(_location(response))
        raise FetchError("Invalid image URL. It redirects too often.")

    async def _check(self, url: httpx.URL) -> _Target:
        if url.scheme != "https" or url.userinfo or url.port is not None:  # httpx leaves 443 out
            raise FetchError(NOT_ALLOWED)
        host = url.raw_host.decode("ascii")
        literal = _address(host)
        if literal is None:
            _check_name(host)
        addresses = [literal] if literal else [_address(text) for text in await self._resolver(host, 443)]
        public = tuple(found for found in addresses if found is not None and is_public(found))
        if not public or len(public) != len(addresses):
            raise FetchError(NOT_ALLOWED)
        return _Target(url, public)

    async def _connect(self, target: _Target, seconds: float) -> httpx.Response:
        last: httpx.HTTPError | None = None
        for address in target.addresses[:3]:
            try:
                return await self._transport.handle_async_request(_request(target.url, address, seconds))
            except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
                last = failed
        raise last or httpx.ConnectError("no address")


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _check_name(host: str) -> None:
    name = host.rstrip(".").lower()
    if "." not in name or any(name == local or name.endswith(f".{local}") for local in LOCAL_NAMES):
        raise FetchError(NOT_ALLOWED)


def _request(url: httpx.URL, address: Address, seconds: float) -> httpx.Request:
    name = url.raw_host.decode("ascii")
    host = f"[{name}]" if ":" in name else name
    limits = {"connect": seconds / 3, "read": seconds, "write": seconds, "pool": seconds}
    return httpx.Request(
        "GET",
        url.copy_with(host=str(address), fragment=None),
        headers={"Host": host, **HEADERS},
        extensions={"sni_hostname": name.rstrip("."), "timeout": limits},
    )


def _location(response: httpx.Response) -> str:
    location: str = response.headers.get("location", "")
    if not location.strip():
        raise FetchError(FAILED)
    return location


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    _check_headers(response, max_bytes)
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _check_headers(response: httpx.Response, max_bytes: int) -> None:
    headers = response.headers
    if response.status_code != 200:
        raise FetchError(FAILED)
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise FetchError("Invalid image URL. The server there sent a compressed body, which was not asked for.")
    if not headers.get("content-type", "").strip().lower().startswith("image/"):
        raise FetchError("Invalid image URL. What is there is not an image.", code="invalid_image_format")
    if int(headers.get("content-length", "0")) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> FetchError:
    return FetchError(f"The image is too large. The maximum is {max_bytes} bytes.", code="image_too_large")
