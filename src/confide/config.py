"""All settings, and the only module that reads the environment.

Precedence, highest first: command-line flags, ``CONFIDE_*`` variables, ``confide.toml``, defaults. An empty
variable counts as unset; variables that name no setting are left alone, orchestrators inject their own.
Every value is checked here, once, at start; an error tells the line, the variable or the flag that holds it.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, get_type_hints

import msgspec
import platformdirs
from msgspec import Meta

from confide.errors import ConfigError
from confide.modelsettings import ID, Count, ModelSettings, Text, complaint, derived_id
from confide.secret import Secret, one_line

__all__ = ["ModelSettings", "Settings", "is_loopback", "load", "prepare_for_engine"]

FILE_NAME = "confide.toml"
PREFIX = "CONFIDE_"
MIB = 1024 * 1024

_HEADER = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<name>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_TOML_POSITION = re.compile(r"\s*\(at (line (?P<line>\d+), column \d+|end of document)\)$")
_SHOWN = 80
_HIDDEN: Final = {"hidden": True}
"""Of a setting that is a secret, or where somebody may have written one by mistake: errors don't repeat it."""
_LISTS = ("api_keys", "cors_origins", "tls_domains")
"""What a variable holds with commas between."""

_Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s]+)$")]
_Https = Annotated[str, Meta(pattern=r"^https://[^/\s]+(/\S*)?\Z")]
_Address = Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/@]+):[0-9]{1,5}\Z")]
_Bytes = Annotated[int, Meta(ge=1024, le=2**40, description="a number of bytes from 1024 to 2^40")]
_Domain = Annotated[
    str, Meta(pattern=r"^(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
]
_ApiKey = Annotated[str, Meta(pattern=r"^(?!key_)[A-Za-z0-9._-]{1,64}=sha256:[0-9a-f]{64}(:e2ee)?\Z")]
_Folder = Annotated[Path, Meta(description="the path of a folder")]
_Switch = Annotated[bool, Meta(description="true or false")]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set. An empty ``models`` means: one model, the default of the catalogue."""

    host: Annotated[Text, Meta(description="a host name or an IP address")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="an integer from 0 to 65535 (0: any free port)")] = 8000
    workers: Count = 1
    data_dir: _Folder = msgspec.field(default_factory=lambda: platformdirs.user_data_path("confide"))
    cache_dir: _Folder = msgspec.field(default_factory=lambda: platformdirs.user_cache_path("confide"))
    auth: _Switch = True
    api_keys: Annotated[
        tuple[_ApiKey, ...],
        Meta(
            description='a list of "NAME=sha256:DIGEST", which `confide keys create NAME --print-setting` prints: keys '
            "beside those of the store",
            extra=_HIDDEN,
        ),
    ] = ()
    page: Annotated[bool, Meta(description="true or false: a page at / that chats and checks, for browsers")] = True
    cors_origins: Annotated[
        tuple[_Origin, ...], Meta(description='a list of origins such as "https://app.example", or "*"')
    ] = ()
    max_body_bytes: _Bytes = 32 * MIB
    max_queue: Annotated[int, Meta(ge=0, le=100_000, description="an integer from 0 to 100000")] = 128
    queue_timeout: Annotated[float, Meta(gt=0, le=86400, description="seconds, more than 0, up to 86400")] = 60.0
    fetch_images: _Switch = False
    max_image_bytes: _Bytes = 10 * MIB
    max_image_pixels: Annotated[int, Meta(ge=1, le=10**9, description="a number of pixels from 1 to 1000000000")] = (
        40_000_000
    )
    keep_alive: Annotated[float, Meta(ge=0, le=3600, description="seconds from 0 (off) to 3600")] = 15.0
    tee: Annotated[
        Literal["auto", "dstack", "tdx", "sev-snp", "dev"],
        Meta(description="auto, dstack, tdx, sev-snp, or dev (a development PKI: no hardware, proves nothing)"),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="debug, info (a line for each request), warning, or error"),
    ] = "warning"
    collateral: Annotated[
        Path | None, Meta(description="a JSON file that reports carry as collateral where the machine gives none")
    ] = None
    key_period: Annotated[
        int, Meta(ge=60, le=90 * 86400, description="seconds after which keys change, from 60 to 7776000")
    ] = 7 * 86400
    database: Annotated[
        Secret | None,
        Meta(description='the URL of a PostgreSQL database, "postgresql://…", in place of a file', extra=_HIDDEN),
    ] = None
    database_file: Annotated[Path | None, Meta(description="the path of a file that holds that URL")] = None
    metrics: Annotated[
        _Address | None, Meta(description='where GET /metrics listens, "127.0.0.1:9464"; without it, nowhere')
    ] = None
    metrics_token_file: Annotated[
        Path | None, Meta(description="the path of a file that holds a bearer token for it, needed off loopback")
    ] = None
    receipt_days: Annotated[int, Meta(ge=1, le=3650, description="days that receipts are kept, from 1 to 3650")] = 30
    signature_model: _Switch = False
    repo_url: Annotated[str | None, Meta(description="where the code comes from, for the report")] = None
    repo_commit: Annotated[str | None, Meta(description="the commit it was built from, for the report")] = None
    image_digest: Annotated[str | None, Meta(description="the digest of the image that runs, for the report")] = None
    tls: _Switch = False
    tls_domains: Annotated[
        tuple[_Domain, ...], Meta(description="a list of host names in lower case, which the TLS key is for")
    ] = ()
    tls_certificate: Annotated[
        Path | None, Meta(description="the path of a PEM file: a certificate issued for the workload's key, its chain")
    ] = None
    tls_acme: Annotated[
        _Https | None, Meta(description="the https URL of an ACME directory; to set it is to agree to its terms")
    ] = None
    tls_acme_contact: Annotated[Text | None, Meta(description="a mail address for the ACME authority")] = None
    tls_acme_port: Annotated[int, Meta(ge=1, le=65535, description="the port that HTTP-01 reaches, 1 to 65535")] = 80
    manifest: Annotated[Path | None, Meta(description="a manifest file that what is served must match")] = None
    models: tuple[ModelSettings, ...] = ()

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and port of :attr:`metrics`, which is set."""
        host, _, port = (self.metrics or "").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def store_file(self) -> Path:
        """The store, where no database is named."""
        return self.data_dir / "confide.db"

    def database_url(self) -> str | None:
        """The URL of the database, with its password; None for :attr:`store_file`.

        Raises:
            ConfigError: the file that holds it can't be read.
        """
        if self.database_file is not None:
            return one_line(self.database_file, "the URL of a database")
        return None if self.database is None else self.database.reveal()


class _Given(NamedTuple):
    """A value as somebody wrote it, and where; ``text`` when it came as a string from a variable."""

    value: object
    where: str
    text: bool = False


@dataclass(frozen=True)
class _TomlFile:
    """The settings file, and where in it a key stands."""

    label: str
    text: str
    data: Mapping[str, object]

    def where(self, key: str, table: int | None = None) -> str:
        """``confide.toml line 7: port``; ``table`` counts the ``[[model]]`` tables from 0."""
        line = self._line(key, table) or self._line("model", None)
        return f"{self.label} line {line}: {key}" if line else f"{self.label}: {key}"

    def _line(self, key: str, table: int | None) -> int | None:
        wanted = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""")
        section, count = "", -1
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(line):
                section = header["name"]
                count += section == "model" and header["open"] == "[["
                if section == (key if table is None else f"model.{key}") and table in (None, count):
                    return number
            elif section == ("" if table is None else "model") and table in (None, count) and wanted.match(line):
                return number
        return None

    def table_where(self, table: int) -> str:
        """The line of the header of the ``[[model]]`` table with this number."""
        headers = [
            number
            for number, line in enumerate(self.text.splitlines(), 1)
            if (header := _HEADER.match(line)) and header["name"] == "model"
        ]
        return f"{self.label} line {headers[table]}" if table < len(headers) else self.where("model")


def load(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Read every source, check every value. ``flags``: field names, and ``model``; None means not given."""
    environ = os.environ if environ is None else environ
    file = _read_file(config_file, environ)
    hints = _hints(Settings)
    given = {
        **_from_file(file, hints),
        **_from_environ(environ, hints),
        **_from_flags(flags, hints),
    }
    values = {name: _convert(hints[name], value) for name, value in given.items()}
    settings = msgspec.convert(values, Settings, dec_hook=_from_text)
    settings = msgspec.structs.replace(settings, models=_models(flags, environ, file))
    if not settings.auth and not is_loopback(settings.host):
        raise ConfigError(f"{given['auth'].where}: keys can be off only on a loopback address, not on {settings.host}")
    _check_keys(settings, given)
    _check_tls(settings, given)
    _check_metrics(settings, given)
    if settings.database and settings.database_file:
        raise ConfigError(f"{given['database_file'].where}: database is set as well; choose one")
    if settings.workers > 1 and any(model.engine for model in settings.models):
        raise ConfigError(f"{given['workers'].where}: an engine that confide starts needs workers = 1")
    return settings


def _check_keys(settings: Settings, given: Mapping[str, _Given]) -> None:
    """Whoever is named twice, or has a key of somebody else, can't be told from another."""
    for at, what in ((0, "name"), (1, "digest")):
        found = [entry.removesuffix(":e2ee").split("=")[at] for entry in settings.api_keys]
        if twice := [one for one in found if found.count(one) > 1]:
            raise ConfigError(f"{given['api_keys'].where}: the {what} {twice[0]} is there twice")


def _check_tls(settings: Settings, given: Mapping[str, _Given]) -> None:
    for name in ("tls_domains", "tls_certificate", "tls_acme"):
        if getattr(settings, name) and not settings.tls:
            raise ConfigError(f"{given[name].where}: has a meaning only with tls = true")
    if settings.tls_acme and settings.tls_certificate:
        raise ConfigError(f"{given['tls_acme'].where}: tls_certificate is set as well; choose one")
    if settings.tls_acme and not settings.tls_domains:
        raise ConfigError(f"{given['tls_acme'].where}: an authority issues certificates for names: set tls_domains")


def _check_metrics(settings: Settings, given: Mapping[str, _Given]) -> None:
    if settings.metrics is None:
        if settings.metrics_token_file is not None:
            raise ConfigError(f"{given['metrics_token_file'].where}: has a meaning only with metrics")
        return
    host, port = settings.metrics_address
    if not 1 <= port <= 65535:
        raise ConfigError(f"{given['metrics'].where}: expected a port from 1 to 65535, got {port}")
    if settings.metrics_token_file is None and not is_loopback(host):
        raise ConfigError(f"{given['metrics'].where}: needs metrics_token_file on any but a loopback address")


def is_loopback(host: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _hints(struct: type[msgspec.Struct]) -> dict[str, object]:
    hints: dict[str, object] = get_type_hints(struct, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "models"}


def _from_text(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, Path | str) and str(value):
        return Path(value).expanduser()
    if kind is Secret and isinstance(value, Secret):
        return value
    if kind is Secret and isinstance(value, str) and value.startswith(("postgresql://", "postgres://")):
        return Secret(value)
    raise ValueError("of another kind")


def _convert(hint: object, given: _Given) -> object:
    try:
        value: object = msgspec.convert(given.value, hint, strict=not given.text, dec_hook=_from_text)
    except (msgspec.ValidationError, RuntimeError):
        raise _unexpected(hint, given) from None
    if value != value:  # NaN passes every range check
        raise _unexpected(hint, given)
    return value


def _unexpected(hint: object, given: _Given) -> ConfigError:
    meta = hint.__metadata__[-1]  # type: ignore[attr-defined]
    words = meta.description
    if meta.extra == _HIDDEN:
        return ConfigError(f"{given.where}: expected {words}")
    shown = str(given.value) if given.text else repr(given.value)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
    return ConfigError(f"{given.where}: expected {words}, got {shown}")


def _unknown(where: str, key: str, known: Iterable[str]) -> ConfigError:
    close = difflib.get_close_matches(key, list(known), n=1)
    return ConfigError(f"{where}: no such setting" + (f"; did you mean {close[0]}?" if close else ""))


def _read_file(chosen: Path | None, environ: Mapping[str, str]) -> _TomlFile:
    named = chosen or environ.get(f"{PREFIX}CONFIG")
    path = Path(named or FILE_NAME).expanduser()
    if not named and not path.exists():
        return _TomlFile(FILE_NAME, "", {})
    try:
        text = path.read_text(encoding="utf-8")
        return _TomlFile(str(path), text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as broken:
        message = str(broken)
        position = _TOML_POSITION.search(message)
        line = position["line"] if position and position["line"] else len(text.splitlines())
        what = _TOML_POSITION.sub("", message)
        raise ConfigError(f"{path} line {line}: {what}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except OSError as failed:
        raise ConfigError(f"{path}: can't be read: {failed.strerror}") from None


def _from_file(file: _TomlFile, hints: Mapping[str, object]) -> dict[str, _Given]:
    known = (*hints, "model")
    for key in file.data:
        if key not in known:
            raise _unknown(file.where(key), key, known)
    return {key: _Given(value, file.where(key)) for key, value in file.data.items() if key != "model"}


def _from_environ(environ: Mapping[str, str], hints: Mapping[str, object]) -> dict[str, _Given]:
    given = {}
    for name in hints:
        variable = PREFIX + name.upper()
        if written := environ.get(variable):
            value = _listed(written) if name in _LISTS else written
            given[name] = _Given(value, variable, text=True)
    return given


def _from_flags(flags: Mapping[str, object], hints: Mapping[str, object]) -> dict[str, _Given]:
    if strange := flags.keys() - hints.keys() - {"model"}:
        raise ValueError(f"not settings: {sorted(strange)}")
    return {
        name: _Given(value, "--no-auth" if name == "auth" else "--" + name.replace("_", "-"))
        for name, value in flags.items()
        if value is not None and name != "model"
    }


def _listed(written: str) -> list[str]:
    return [item for item in (part.strip() for part in written.split(",")) if item]


def _models(flags: Mapping[str, object], environ: Mapping[str, str], file: _TomlFile) -> tuple[ModelSettings, ...]:
    """The models of the flags, else of the variable, else of the file, under ids that differ."""
    chosen = flags.get("model")
    if isinstance(chosen, str):
        chosen = [chosen]
    if isinstance(chosen, list | tuple) and chosen:
        found = [(_named_source(str(item), "--model"), "--model") for item in chosen]
    elif written := environ.get(f"{PREFIX}MODEL"):
        variable = f"{PREFIX}MODEL"
        found = [(_named_source(item, variable), variable) for item in _listed(written)]
    else:
        found = list(_model_tables(file))
    _refuse_doubles(found)
    return tuple(model for model, _ in found)


def _named_source(written: str, where: str) -> ModelSettings:
    """``SOURCE`` or ``ID=SOURCE``; a path that starts with ``./`` or ``/`` may hold ``=``."""
    head, equals, tail = written.partition("=")
    fields = {"source": tail, "id": head} if equals and ID.fullmatch(head) else {"source": written}
    return _model({name: _Given(value, where) for name, value in fields.items()}, where)


def _model_tables(file: _TomlFile) -> Iterator[tuple[ModelSettings, str]]:
    tables = file.data.get("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{file.where('model')}: expected [[model]] tables")
    hints = _hints(ModelSettings)
    for index, table in enumerate(tables):
        for key in table:
            if key not in hints:
                raise _unknown(file.where(key, index), key, hints)
        given = {key: _Given(value, file.where(key, index)) for key, value in table.items()}
        yield _model(given, file.table_where(index)), file.table_where(index)


def _model(given: Mapping[str, _Given], where: str) -> ModelSettings:
    hints = _hints(ModelSettings)
    values = {name: _convert(hints[name], value) for name, value in given.items()}
    if wrong := complaint(given.keys(), values):
        key, what = wrong
        raise ConfigError(f"{where if key is None else given[key].where}: {what}")
    values["id"] = values.get("id") or derived_id(values)
    return msgspec.convert(values, ModelSettings, dec_hook=_from_text)


def _refuse_doubles(found: Iterable[tuple[ModelSettings, str]]) -> None:
    seen: set[str] = set()
    for model, where in found:
        for name in (model.id or "", *model.aliases):
            if name in seen:
                raise ConfigError(f"{where}: the model id {name} is taken twice; give each model an id of its own")
            seen.add(name)


def inherited() -> dict[str, str]:
    """The variables of this process, for whoever starts another one and chooses among them."""
    return dict(os.environ)


def prepare_for_engine() -> None:
    """Set what the engine's libraries read when they load; must run before they do. An operator's own choice stands.

    * OpenMP: threads sleep while they wait. Spinning, the default, collapses as soon as anything else wants the cores.
    * llguidance: silent. On a failure while decoding it would print the token's text, which is content.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["LLGUIDANCE_LOG_LEVEL"] = "0"
