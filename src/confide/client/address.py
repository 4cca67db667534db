"""Where a service is: one origin, and nothing else is ever asked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

import httpx

from confide.client.errors import Misused

_PORTS: Final = {"https": 443, "http": 80}
_LONGEST: Final = 2048


@dataclass(frozen=True, slots=True)
class Address:
    """The origin of a service, taken apart. ``host`` is as certificates and keysets name it, without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        """``https://host:port``; the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def base_url(self) -> str:
        """What SDKs take as ``base_url``."""
        return f"{self.origin}/v1"

    @property
    def is_tls(self) -> bool:
        """Whether connections are TLS."""
        return self.scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, so that nobody on a network can listen."""
        return is_loopback(self.host)

    def holds(self, url: httpx.URL) -> bool:
        """Whether a URL has this origin."""
        port = url.port or _PORTS.get(url.scheme)
        return (url.scheme, url.host.lower(), port) == (self.scheme, self.host, self.port) and not url.userinfo


def parse_address(text: str) -> Address:
    """Read ``https://host[:port][/v1]``; ``http://`` as well, for what is sealed or on this machine.

    Raises:
        Misused: something else.
    """
    try:
        url = httpx.URL(text if len(text) <= _LONGEST else "")
    except httpx.InvalidURL:
        raise Misused("the service's URL can't be read: expected https://HOST[:PORT]/v1") from None
    if url.scheme not in _PORTS or not url.host:
        raise Misused("the service's URL must be https://HOST[:PORT]/v1")
    if url.path.rstrip("/") not in ("", "/v1") or url.query or url.fragment or url.userinfo:
        raise Misused("the service's URL has a path other than /v1, a query, a fragment or a user; leave them out")
    return Address(url.scheme, url.host.lower(), url.port or _PORTS[url.scheme])


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine. Names are not looked up, since answers to that can be forged."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
