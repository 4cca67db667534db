"""secp256k1 by libsecp256k1, where the package ``coincurve`` is there: six times faster than OpenSSL's.

A sealed stream needs a new key and an agreement for every chunk, so this decides what the suite costs. The agreement
is ``secp256k1_ecdh``, which runs in constant time; ``coincurve`` wraps it with a hash of the point where the protocols
want the bare coordinate, so it is called here directly.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from confide.seal.curves import N256K1, Curve, Secp256k1
from confide.seal.errors import BadKey


class FastKey:
    """A private key on secp256k1, in libsecp256k1's hands."""

    __slots__ = ("_library", "_secret", "point")

    def __init__(self, library: FastSecp256k1, secret: bytes) -> None:
        self._library = library
        self._secret = secret
        self.point = library.public(secret)

    def exchange(self, point: bytes) -> bytes:
        """See :meth:`confide.seal.curves.PrivateKey.exchange`."""
        return self._library.agree(self._secret, point)


class FastSecp256k1(Secp256k1):
    """The same curve and the same checks.

    Raises:
        ImportError: ``coincurve`` is not installed.
    """

    def __init__(self) -> None:
        native: Any = import_module("coincurve._libsecp256k1")
        self._keys: Any = import_module("coincurve")
        self._ffi, self._lib = native.ffi, native.lib
        kind = "int(unsigned char *, const unsigned char *, const unsigned char *, void *)"
        self._bare = self._ffi.callback(kind, self._copy_x)

    def _copy_x(self, output: Any, x: Any, y: Any, data: Any) -> int:
        self._ffi.memmove(output, x, 32)
        return 1

    def public(self, secret: bytes) -> bytes:
        """The point that belongs to a private key."""
        return bytes(self._keys.PublicKey.from_valid_secret(secret).format(compressed=False))

    def agree(self, secret: bytes, point: bytes) -> bytes:
        """The x coordinate of the shared point."""
        peer = self._peer(point)
        shared = self._ffi.new("unsigned char [32]")
        context = self._keys.GLOBAL_CONTEXT.ctx
        if self._lib.secp256k1_ecdh(context, shared, peer.public_key, secret, self._bare, self._ffi.NULL) != 1:
            raise BadKey("no key can be agreed with this point")
        return bytes(self._ffi.buffer(shared, 32))

    def _peer(self, point: bytes) -> Any:
        if len(point) != 65 or point[0] != 4:
            raise BadKey("not an uncompressed point")
        try:
            return self._keys.PublicKey(point)
        except ValueError:
            raise BadKey("not on the curve") from None

    def point(self, key: bytes) -> bytes:
        """See :meth:`confide.seal.curves.Curve.point`."""
        self._peer(key)
        return key

    def load(self, secret: bytes) -> FastKey:
        """See :meth:`confide.seal.curves.Curve.load`."""
        if len(secret) != 32 or not 0 < int.from_bytes(secret) < N256K1:
            raise BadKey("not a secp256k1 private key")
        return FastKey(self, secret)


@cache
def best_secp256k1() -> Curve:
    """The fastest implementation that is there."""
    try:
        return FastSecp256k1()
    except ImportError:
        return Secp256k1()
