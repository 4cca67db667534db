"""Curves, key derivation and single fields, against a second opinion."""

from __future__ import annotations

import importlib
import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.seal.helpers import KEYS, counting
from tests.seal.vectors import low_order

from confide.seal import aci_v2, fastcurve, legacy
from confide.seal.curves import LOW_ORDER, N256K1, P25519, X25519, Curve, Secp256k1
from confide.seal.ecies import Opener, Sealer
from confide.seal.edwards import Ed25519AsX25519, agreement_point, agreement_secret
from confide.seal.errors import BadBlob, BadKey
from confide.seal.fastcurve import FastSecp256k1, best_secp256k1

secrets = st.binary(min_size=32, max_size=32)
SECP: list[Curve] = [Secp256k1(), FastSecp256k1()]
CURVES: list[Curve] = [X25519(), *SECP]


# X25519 and Ed25519 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", low_order())
def test_low_order_points_are_those_that_the_library_refuses_later(text: str) -> None:
    with pytest.raises(BadKey):
        X25519().point(bytes.fromhex(text))
    with pytest.raises(BadKey):
        X25519().load(bytes(range(32))).exchange(bytes.fromhex(text))
    with pytest.raises(ValueError, match="shared"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(text)))


def test_the_list_of_low_order_points_is_what_the_curve_says() -> None:
    """Doubling three times ends at infinity: u' = (u^2 - 1)^2 / (4 u (u^2 + A u + 1))."""

    def double(u: int) -> int:
        bottom = 4 * u * (u * u + 486662 * u + 1) % P25519
        return (u * u - 1) ** 2 * pow(bottom, -1, P25519) % P25519 if bottom else 0

    for u in LOW_ORDER:
        assert double(double(double(u))) == 0
    assert double(double(double(9))) != 0
    assert len(LOW_ORDER) == 5


@given(secrets)
def test_ed25519_keys_become_a_pair(seed: bytes) -> None:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    pair = X25519PrivateKey.from_private_bytes(agreement_secret(seed))
    assert agreement_point(public) == pair.public_key().public_bytes_raw()
    assert Ed25519AsX25519().point(public) == agreement_point(public)
    mirrored = public[:31] + bytes([public[31] ^ 0x80])
    assert agreement_point(mirrored) == agreement_point(public)


@given(st.integers(0, 2**255 - 1))
def test_only_points_of_the_curve_are_ed25519_keys(y: int) -> None:
    """Half of all numbers are; the library's own check is the second opinion where it has one."""
    x2 = (y * y - 1) * pow(-121665 * pow(121666, -1, P25519) * y * y + 1, -1, P25519) % P25519
    on_curve = y < P25519 and (x2 == 0 or pow(x2, (P25519 - 1) // 2, P25519) == 1)
    try:
        agreement_point(y.to_bytes(32, "little"))
    except BadKey:
        assert not on_curve or y in (1, P25519 - 1, 0) or x2 == 0
    else:
        assert on_curve


# secp256k1 -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, N256K1 - 1), st.integers(1, N256K1 - 1))
def test_both_implementations_agree(mine: int, theirs: int) -> None:
    slow, fast = (curve.load(mine.to_bytes(32)) for curve in SECP)
    peer = SECP[0].load(theirs.to_bytes(32)).point
    assert slow.point == fast.point
    assert slow.exchange(peer) == fast.exchange(peer)


@pytest.mark.parametrize("curve", SECP)
def test_the_ends_of_the_range(curve: Curve) -> None:
    for number in (1, 2, N256K1 - 1):
        curve.load(number.to_bytes(32))
    for number in (0, N256K1, 2**256 - 1):
        with pytest.raises(BadKey):
            curve.load(number.to_bytes(32))
    drawn = iter([bytes(32), b"\xff" * 32, bytes(31) + b"\1"])
    assert curve.generate(lambda _: next(drawn)).point == curve.load(bytes(31) + b"\1").point


@pytest.mark.parametrize("curve", SECP)
def test_points_that_are_none(curve: Curve) -> None:
    good = curve.load(bytes(31) + b"\7").point
    key = curve.load(bytes(31) + b"\5")
    compressed = bytes([2 + good[64] % 2]) + good[1:33]
    hybrid = bytes([6 + good[64] % 2]) + good[1:]
    off = good[:64] + bytes([good[64] ^ 1])
    beyond = b"\4" + P25519.to_bytes(32) + good[33:]
    for bad in (b"", b"\0", good[:64], good + b"\0", compressed, hybrid, off, beyond, b"\4" + bytes(64)):
        with pytest.raises(BadKey):
            curve.point(bad)
        with pytest.raises(BadKey):
            key.exchange(bad)
    assert curve.point(good) == good


def test_a_client_draws_again_when_it_drew_no_key() -> None:
    drawn = iter([bytes(32)])
    body = b'{"model":"m","messages":[{"content":"a"}]}'
    key = KEYS["ecdsa"].identity.hex()
    assert legacy.seal_request(body, "ecdsa", key, 0, random=lambda size: next(drawn, None) or os.urandom(size)).body


def test_a_secret_that_libsecp256k1_refuses() -> None:
    with pytest.raises(BadKey):
        FastSecp256k1().agree(bytes(32), SECP[0].load(bytes(31) + b"\7").point)


def test_without_the_fast_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    assert isinstance(best_secp256k1(), FastSecp256k1)
    monkeypatch.setattr(fastcurve, "import_module", missing)
    assert type(best_secp256k1.__wrapped__()) is Secp256k1
    monkeypatch.undo()
    assert importlib.import_module("coincurve")


# Keys as text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", CURVES)
def test_all_forms_of_a_key_read_alike(curve: Curve) -> None:
    point = curve.generate(os.urandom).point
    text = point.hex()
    forms = [text, text.upper(), "0x" + text] + ([text[2:], "0x" + text[2:]] if len(point) == 65 else [])
    assert {curve.read(form) for form in forms} == {point}
    for bad in ("", "0x", text[:-1], text + "0", text + "00", " " + text, text + "\n", "0X" + text, "é" + text[1:]):
        with pytest.raises(BadKey):
            curve.read(bad)


def test_keys_of_the_service() -> None:
    for module, algo in ((aci_v2, "rsa"), (legacy, "rsa"), (aci_v2, "ecdsa"), (legacy, "x25519")):
        with pytest.raises(BadKey):
            module.suite(algo)
    for module, algo in ((aci_v2, aci_v2.X25519_SUITE), (legacy, "ed25519"), (legacy, "ecdsa")):
        with pytest.raises(BadKey):
            module.service_key(algo, bytes(31))
    with pytest.raises(BadKey):
        X25519().load(b"")


# Fields --------------------------------------------------------------------------------------------------------------


@given(secrets)
def test_the_key_derivation_is_hkdf(shared: bytes) -> None:
    for key in KEYS.values():
        suite = key.suite
        expected = AESGCM(HKDF(hashes.SHA256(), 32, None, suite.info).derive(shared))
        assert suite.cipher(shared).encrypt(bytes(12), b"a", b"b") == expected.encrypt(bytes(12), b"a", b"b")


@settings(max_examples=25)
@given(st.sampled_from(sorted(KEYS)), st.binary(max_size=200), st.none() | st.binary(max_size=50))
def test_what_is_sealed_can_be_opened(algo: str, plaintext: bytes, aad: bytes | None) -> None:
    key = KEYS[algo]
    sealer = Sealer(key.suite, key.curve.point(key.identity), os.urandom)
    opener = Opener(key.suite, key.private)
    sealed = [sealer.seal(plaintext, aad) for _ in range(2)]
    assert [opener.open(text, aad) for text in sealed] == [plaintext] * 2
    assert sealed[0] != sealed[1]
    assert len(sealed[0]) == opener.shortest + 2 * len(plaintext)
    with pytest.raises(BadBlob):
        opener.open(sealed[0], (aad or b"") + b"x")


@pytest.mark.parametrize("algo", sorted(KEYS))
def test_every_flipped_bit_is_found(algo: str) -> None:
    key = KEYS[algo]
    blob = bytes.fromhex(Sealer(key.suite, key.curve.point(key.identity), counting()).seal(b"a", b"b"))
    opener = Opener(key.suite, key.private)
    ignored = {32 * 8 - 1} if key.curve.point_size == 32 else set()  # X25519 masks the top bit of a point
    for bit in set(range(len(blob) * 8)) - ignored:
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadBlob):
            opener.open(flipped.hex(), b"b")
    assert opener.open(blob.hex(), b"b") == b"a"
