"""Files that a person names, read with a limit; an error says which one and what is wrong with it."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from confide.errors import ConfideError, OperatorError
from confide.verify.material import MOST_BYTES, Item, Kind
from confide.verify.snp_der import parse_certificate, parse_crl

_XML: Final = re.compile(rb"\s*(<\?xml|<[A-Za-z0-9:]*SoftwareIdentity)")
_PEM: Final = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----([A-Za-z0-9+/=\s]+)-----END \1-----")
_DER: Final[dict[Kind, Callable[[bytes, str], object]]] = {"amd-certificate": parse_certificate, "amd-crl": parse_crl}
_MOST_KEY: Final = 4096


class UsageError(OperatorError):
    """What was asked for can't be done as it was asked for."""

    exit_code = 2


def read(path: Path, most: int = MOST_BYTES, *, start: int = 0, length: int | None = None, name: str = "") -> bytes:
    """A whole file, or ``length`` bytes of it from ``start`` on; ``name`` is what to call it, if not by its path.

    Raises:
        UsageError: it can't be read, or that is longer than ``most`` bytes.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            if start:
                file.seek(start)
            data = file.read(most + 1 if length is None else length)
    except OSError as failed:
        raise UsageError(f"{name} can't be read: {failed.strerror}") from failed
    if len(data) > most:
        raise UsageError(f"{name} is longer than {most} bytes")
    return data


def write(path: Path, data: bytes) -> None:
    """Write a whole file, readable by its owner only, in place of an older one: all of it or nothing.

    Raises:
        UsageError: it can't be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as failed:
        raise UsageError(f"{path} can't be written: {failed.strerror}") from failed


def api_key(path: Path | None, from_environment: str | None) -> str | None:
    """The API key in the file, without blanks around it; else that of the environment.

    Raises:
        UsageError: the file can't be read, or doesn't hold one line of visible ASCII.
    """
    if path is None:
        return from_environment
    text = read(path, _MOST_KEY).decode("ascii", "replace").strip()
    if not text or not all("!" <= character <= "~" for character in text):
        raise UsageError(f"{path} does not hold one API key")
    return text


# What vendors publish -------------------------------------------------------------------------------------------------


def material(paths: Iterable[Path]) -> tuple[Item, ...]:
    """Vendors' documents from files; what each is, is seen from its bytes. A RIM's file is named by the RIM's id.

    Raises:
        UsageError: one can't be read, or is of no known kind.
    """
    return tuple(item for path in paths for item in _items(path))


def _items(path: Path) -> list[Item]:
    data = read(path)
    if _XML.match(data):
        return [Item("nvidia-rim", path.stem, data)]
    ders = [base64.b64decode(found[2]) for found in _PEM.finditer(data)] or [data]
    kinds = [_kind(der) for der in ders]
    if None in kinds:
        raise UsageError(
            f"{path}: expected TDX collateral, a JWKS or an NRAS token (JSON), an NVIDIA RIM (XML), a dstack image "
            "document, or AMD certificates or CRLs (DER or PEM)"
        )
    return [Item(kind, "", der) for kind, der in zip(kinds, ders, strict=True) if kind is not None]


def _kind(data: bytes) -> Kind | None:
    return _kind_of_der(data) if data[:1] == b"\x30" else _kind_of_json(data)


def _kind_of_der(data: bytes) -> Kind | None:
    for kind, parse in _DER.items():
        with contextlib.suppress(ConfideError):
            parse(data, "")
            return kind
    return None


def _kind_of_json(data: bytes) -> Kind | None:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    if isinstance(value, list):
        return "nras-token"
    if not isinstance(value, dict):
        return None
    known: dict[str, Kind] = {"tcb_info": "tdx-collateral", "keys": "jwks", "checksum_file": "dstack-image"}
    return next((kind for member, kind in known.items() if member in value), None)
