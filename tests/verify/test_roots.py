"""Pinned roots: a changed file is noticed, and a development root comes from a file that a person names only."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from confide.attest.dev_pki import _issue, create_pki, pem
from confide.verify import roots
from confide.verify.roots import Roots, RootsError, development, pinned, read_development

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def text() -> bytes:
    """The file of a development installation."""
    return create_pki(NOW).roots_pem()


def test_pinned_roots_are_certificates_that_signed_themselves() -> None:
    assert {(root.vendor, root.use) for root in pinned()} == {
        ("intel", "tdx"),
        ("amd", "snp"),
        ("nvidia", "gpu"),
        ("nvidia", "rim"),
    }
    for root in pinned():
        root.certificate.verify_directly_issued_by(root.certificate)
        constraints = root.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert constraints.ca
        assert not root.development
    assert len({root.der for root in pinned()}) == len(pinned())


def test_the_digests_are_those_of_the_files() -> None:
    for _, _, _, file, digest in roots._PINNED:
        data = (files("confide.verify") / "pinned" / file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.parametrize("entry", roots._PINNED, ids=lambda entry: entry[3])
def test_a_changed_file_is_noticed(
    entry: tuple[str, roots.Vendor, roots.Use, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, vendor, use, file, digest = entry
    (tmp_path / "pinned").mkdir()
    data = (files("confide.verify") / "pinned" / file).read_bytes()
    monkeypatch.setattr(roots, "files", lambda package: tmp_path)
    (tmp_path / "pinned" / file).write_bytes(data)
    assert roots._load(name, vendor, use, file, digest).der == data
    for changed in (data[:-1] + bytes([data[-1] ^ 1]), data + b"\0", b""):
        (tmp_path / "pinned" / file).write_bytes(changed)
        with pytest.raises(RootsError, match="was changed"):
            roots._load(name, vendor, use, file, digest)


def test_only_the_vendors_that_are_named_are_accepted() -> None:
    assert {root.vendor for root in Roots.of(["intel"]).accepted} == {"intel"}
    assert Roots.of([]).accepted == ()
    both = Roots.of(["amd", "nvidia"])
    assert {root.use for root in both.accepted} == {"snp", "gpu", "rim"}
    assert both.for_use("tdx") == ()
    assert len(both.for_use("snp")) == 3


def test_no_development_root_is_accepted_unless_given(text: bytes) -> None:
    assert not any(root.development for root in Roots.of(["intel", "amd", "nvidia"]).accepted)
    with_development = Roots.of([], development(text))
    assert [(root.use, root.development) for root in with_development.accepted] == [("tdx", True), ("gpu", True)]
    assert Roots.of(["intel"], development(text)).for_use("tdx")[0].development is False


def test_a_development_root_is_read_from_a_file(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    path.write_bytes(text)
    assert read_development(path) == development(text)
    assert [root.use for root in read_development(path)] == ["tdx", "gpu"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RootsError, match="can't be read"):
        read_development(tmp_path / "missing.pem")
    with pytest.raises(RootsError, match="can't be read"):
        read_development(tmp_path)


def test_a_file_that_holds_something_else(text: bytes, tmp_path: Path) -> None:
    other = pem([_issue("another curve", NOW, ec.SECP521R1(), path_length=1).certificate])
    for wrong in (b"", b"garbage", text.replace(b"MII", b"M!I"), other, text + b" " * roots._MOST_BYTES):
        with pytest.raises(RootsError):
            development(wrong)
    path = tmp_path / "roots.pem"
    path.write_bytes(b" " * (roots._MOST_BYTES + 10))
    with pytest.raises(RootsError, match="too long"):
        read_development(path)
    assert RootsError.exit_code == 2


def test_a_development_root_that_claims_a_vendors_name_is_still_one() -> None:
    named = pem([_issue("Intel SGX Root CA", NOW, ec.SECP256R1(), path_length=1).certificate])
    (root,) = development(named)
    assert root.development
    assert root.name == "development root for quotes"
