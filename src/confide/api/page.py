"""The page that a browser gets at ``/``: static files of the package, read, hashed and compressed once, at start.

Everything lies under one folder that is named by the digest of all files, so that the files can be kept for ever while
``/`` itself is asked for anew. The headers let the page talk to this server and to nobody else, run no script and no
style but these files (Content Security Policy 3), and turn no text into markup (Trusted Types).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from confide.errors import NotFound

INDEX: Final = "index.html"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Which files are served, and as what. Others in the folder are none of the page's."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Vary": "Accept-Encoding",
}
MOST_FILES: Final = 256
MOST_BYTES: Final = 4 * 1024 * 1024

_FOREVER: Final = "public, max-age=31536000, immutable"
_ASK: Final = "no-cache"


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent; ``etag`` is that of ``plain``, the one of ``packed`` (gzip) has a mark of its own."""

    plain: bytes
    packed: bytes
    media_type: str
    etag: str
    caching: str

    @classmethod
    def of(cls, name: str, plain: bytes, caching: str) -> PageFile:
        """Compress and name it."""
        kind = TYPES[PurePosixPath(name).suffix]
        return cls(plain, gzip.compress(plain, 9, mtime=0), kind, hashlib.sha256(plain).hexdigest()[:32], caching)

    def response(self, request: Request) -> Response:
        """The file in the encoding that the client takes, or 304 where it has it."""
        packed = _takes_gzip(request.headers.getlist("accept-encoding"))
        etag = f'"{self.etag}{"-gzip" if packed else ""}"'
        headers = {**HEADERS, "ETag": etag, "Cache-Control": self.caching}
        if _has(request.headers.getlist("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(self.packed if packed else self.plain, headers=headers, media_type=self.media_type)


class Page:
    """The page and its files.

    Args:
        found: contents by name, ``proof/index.js`` for instance; :data:`INDEX` must be among them.
        development_roots: the roots of development evidence (PEM), None on hardware. The page takes them from here, as
            a person would give them with ``--insecure-dev-root``: whatever rests on them is called development.

    Raises:
        ValueError: it is too large to be kept in memory, or has no index.
    """

    def __init__(self, found: Mapping[str, bytes], development_roots: bytes | None = None) -> None:
        if INDEX not in found or len(found) > MOST_FILES or sum(map(len, found.values())) > MOST_BYTES:
            raise ValueError(f"expected {INDEX} among at most {MOST_FILES} files of {MOST_BYTES} bytes together")
        self.digest = tree_digest(found)
        self._roots = development_roots
        self._folder = self.digest.removeprefix("sha256:")[:16]
        self._files = {name: PageFile.of(name, data, _FOREVER) for name, data in found.items() if name != INDEX}
        self._index = PageFile.of(INDEX, self._filled(found[INDEX]), _ASK)

    @classmethod
    def load(cls, development_roots: bytes | None = None) -> Page:
        """The page of this package."""
        return cls(dict(sorted(_read(files("confide") / "web"))), development_roots)

    @property
    def size(self) -> int:
        """How many bytes a browser fetches that takes gzip."""
        return len(self._index.packed) + sum(len(file.packed) for file in self._files.values())

    def table(self) -> list[BaseRoute]:
        """The routes, for GET and HEAD."""
        return [
            Route("/", self.index),
            Route("/page/development-roots.pem", self.roots),
            Route("/page/{digest}/{name:path}", self.file),
        ]

    async def index(self, request: Request) -> Response:
        """``GET /``."""
        return self._index.response(request)

    async def file(self, request: Request) -> Response:
        """``GET /page/{digest}/{name}``: a name in a table, never a path on a disk."""
        file = self._files.get(request.path_params["name"])
        if file is None or request.path_params["digest"] != self._folder:
            raise NotFound("The page has no such file. Reload it.", code="not_found")
        return file.response(request)

    async def roots(self, _: Request) -> Response:
        """``GET /page/development-roots.pem``: 204 where evidence is a machine's own."""
        headers = {**HEADERS, "Cache-Control": _ASK}
        if self._roots is None:
            return Response(status_code=204, headers=headers)
        return Response(self._roots, headers=headers, media_type="application/x-pem-file")

    def _filled(self, index: bytes) -> bytes:
        """The index with the folder's name, the digest, and all modules, which a browser then fetches at once."""
        modules = (name for name in self._files if name.endswith(".js"))
        links = "\n".join(f'<link rel="modulepreload" href="/page/{self._folder}/{name}">' for name in modules)
        text = index.decode().replace("<!-- modules -->", links)
        return text.replace("{folder}", f"/page/{self._folder}").replace("{digest}", self.digest).encode()


def tree_digest(found: Mapping[str, bytes]) -> str:
    """``sha256:`` and hex over a line for each file, in order of names, as sha256sum writes it: ``HEX  NAME``."""
    lines = (f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in sorted(found))
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _read(entry, f"{name}/")
        elif PurePosixPath(name).suffix in TYPES:
            yield name, entry.read_bytes()


def _takes_gzip(accepted: list[str]) -> bool:
    """Whether a client names gzip and doesn't weigh it with zero (RFC 9110, 12.5.3); a ``*`` alone doesn't count."""
    for offer in ",".join(accepted).lower().split(","):
        coding, _, weight = (part.strip() for part in offer.partition(";"))
        if coding == "gzip":
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False


def _has(asked: list[str], etag: str) -> bool:
    """If-None-Match, compared weakly (RFC 9110, 13.1.2)."""
    held = {tag.strip().removeprefix("W/") for tag in ",".join(asked).split(",")}
    return "*" in held or etag in held
