from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from confide.config import ModelSettings, Settings, is_loopback, load
from confide.errors import ConfigError


def from_toml(tmp_path: Path, text: str, **flags: object) -> Settings:
    file = tmp_path / "confide.toml"
    file.write_text(text)
    return load(flags, environ={}, config_file=file)


def test_defaults() -> None:
    settings = load({}, environ={})
    assert (settings.host, settings.port, settings.workers, settings.auth) == ("127.0.0.1", 8000, 1, True)
    assert settings.models == ()
    assert settings.data_dir.name == settings.cache_dir.name == "confide"
    assert not settings.fetch_images


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "confide.toml"
    file.write_text("port = 1\nworkers = 2\nmax_queue = 3\n")
    environ = {"CONFIDE_CONFIG": str(file), "CONFIDE_WORKERS": "5", "CONFIDE_PORT": "4"}
    settings = load({"port": 6, "host": None}, environ=environ)
    assert (settings.port, settings.workers, settings.max_queue, settings.host) == (6, 5, 3, "127.0.0.1")


def test_the_file_beside_us_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "confide.toml").write_text("port = 17")
    monkeypatch.chdir(tmp_path)
    assert load({}, environ={}).port == 17


def test_variables_are_read_as_text() -> None:
    environ = {
        "CONFIDE_AUTH": "false",
        "CONFIDE_API_KEYS": f"a=sha256:{'0' * 64}, b=sha256:{'1' * 64}:e2ee",
        "CONFIDE_CORS_ORIGINS": "https://a.example, http://localhost:3000",
        "CONFIDE_KEEP_ALIVE": "2.5",
        "CONFIDE_DATA_DIR": "~/somewhere",
        "CONFIDE_PORT": "",
        "CONFIDE_SERVICE_HOST": "injected by an orchestrator",
    }
    settings = load({}, environ=environ)
    assert settings.auth is False
    assert settings.api_keys == (f"a=sha256:{'0' * 64}", f"b=sha256:{'1' * 64}:e2ee")
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.keep_alive == 2.5
    assert settings.data_dir == Path.home() / "somewhere"
    assert settings.port == 8000


MODELS = """
[[model]]
source = "smollm2-135m-instruct"
slots = 2
aliases = ["small"]

[[model]]
id = "org/big"
source = "/models/big.gguf"
[model.pricing]
prompt = "0.0000004"
completion = "0.000001"
"""


def test_model_tables(tmp_path: Path) -> None:
    small, big = from_toml(tmp_path, MODELS).models
    assert small == ModelSettings(
        source="smollm2-135m-instruct", id="smollm2-135m-instruct", slots=2, aliases=("small",)
    )
    assert (big.id, big.pricing) == ("org/big", {"prompt": "0.0000004", "completion": "0.000001"})


def test_models_of_flags_and_variable_replace_the_tables(tmp_path: Path) -> None:
    (only,) = from_toml(tmp_path, MODELS, model=["mine=/x/y.gguf"]).models
    assert (only.id, only.source) == ("mine", "/x/y.gguf")
    found = load({}, environ={"CONFIDE_MODEL": "hf:o/n@main/d/q.gguf, two=./b"}).models
    assert [(model.id, model.source) for model in found] == [("q", "hf:o/n@main/d/q.gguf"), ("two", "./b")]


@pytest.mark.parametrize("written", ["sk-confide-secret", "app=sk-confide-secret"])
def test_a_key_in_place_of_its_digest_is_not_repeated(tmp_path: Path, written: str) -> None:
    (tmp_path / "confide.toml").write_text(f"api_keys = ['{written}']")
    for environ in ({"CONFIDE_CONFIG": str(tmp_path / "confide.toml")}, {"CONFIDE_API_KEYS": written}):
        with pytest.raises(ConfigError, match="expected a list of") as refused:
            load({}, environ=environ)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b"),
        ("/a/b c.gguf", "b-c"),
        ("/a/folder/", "folder"),
        ("./x=y.gguf", "x-y"),
        (".", "model"),
    ],
)
def test_derived_ids(source: str, expected: str) -> None:
    assert [model.id for model in load({"model": source}, environ={}).models] == [expected]


ENGINES = """
[[model]]
id = "org/attached"
urls = ["http://10.0.0.5:8001/v1", "unix:/run/vllm.sock"]
dialect = "vllm"
upstream_model = "served"
api_key_file = "~/key"
vision = true
max_outstanding = 64
connect_timeout = 2
first_token_timeout = 10.5
between_tokens_timeout = 5
total_timeout = 100

[[model]]
engine = "llama-server"
weights = "/models/tiny.gguf"
projector = "/models/mmproj.gguf"
arguments = ["--parallel", "4"]
command = ["/opt/llama-server"]
start_timeout = 60
context_length = 4096
[model.environment]
GGML_CUDA_FORCE_MMQ = "1"

[[model]]
urls = ["https://engine.example"]
upstream_model = "org/named-by-the-engine"
"""


def test_engines_of_their_own(tmp_path: Path) -> None:
    attached, child, last = from_toml(tmp_path, ENGINES).models
    assert (attached.id, attached.source, attached.engine) == ("org/attached", None, None)
    assert attached.urls == ("http://10.0.0.5:8001/v1", "unix:/run/vllm.sock")
    assert attached.api_key_file == Path.home() / "key"
    assert (attached.connect_timeout, attached.first_token_timeout, attached.total_timeout) == (2, 10.5, 100)
    assert (child.id, child.engine, child.weights) == ("tiny", "llama-server", Path("/models/tiny.gguf"))
    assert (child.command, child.environment) == (("/opt/llama-server",), {"GGML_CUDA_FORCE_MMQ": "1"})
    assert (last.id, last.dialect, last.vision) == ("org/named-by-the-engine", "auto", None)


ATTACHED = "[[model]]\nid = 'm'\nurls = ['unix:/s']\n"
CHILD = "[[model]]\nengine = 'vllm'\nweights = '/w'\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[[model]]\nslots = 2", 1, "a [[model]] table needs source, urls or engine"),
        (ATTACHED + "source = 'a'", 3, "urls: source is set as well; a model has one of source, urls and engine"),
        (CHILD + "source = 'a'", 2, "engine: source is set as well"),
        (ATTACHED + "engine = 'vllm'", 4, "engine: urls is set as well"),
        (ATTACHED + "slots = 2", 4, "slots: has a meaning only with source"),
        (CHILD + "threads = 2", 4, "threads: has a meaning only with source"),
        (ATTACHED + "projector = 'p'", 4, "projector: has a meaning only with source or engine"),
        (ATTACHED + "weights = '/w'", 4, "weights: has a meaning only with engine"),
        (ATTACHED + "arguments = ['x']", 4, "arguments: has a meaning only with engine"),
        (ATTACHED + "[model.environment]\nA = '1'", 4, "environment: has a meaning only with engine"),
        (CHILD + "dialect = 'vllm'", 4, "dialect: has a meaning only with urls"),
        (CHILD + "api_key_file = 'k'", 4, "api_key_file: has a meaning only with urls"),
        ("[[model]]\nsource = 'a'\nvision = true", 3, "vision: has a meaning only with urls or engine"),
        ("[[model]]\nsource = 'a'\ntotal_timeout = 1", 3, "total_timeout: has a meaning only with urls or engine"),
        ("[[model]]\nurls = ['unix:/s']", 1, "a [[model]] table with urls needs id"),
        ("[[model]]\nurls = ['unix:/s']\nupstream_model = 'no id'", 1, "a [[model]] table with urls needs id"),
        ("[[model]]\nid = 'm'\nurls = []", 3, "urls: expected at least one"),
        ("[[model]]\nid = 'm'\nurls = 'unix:/s'", 3, "urls: expected a list of engines"),
        ("[[model]]\nid = 'm'\nurls = ['unix:/s', 'unix:/s']", 3, "urls: one of them is there twice"),
        ("[[model]]\nid = 'm'\nurls = ['http://h/v1', 'http://h/v1/']", 3, "urls: one of them is there twice"),
        ("[[model]]\nid = 'm'\nurls = ['ftp://h']", 3, "urls: an engine's address has an unknown form: expected http"),
        ("[[model]]\nid = 'm'\nurls = ['unix:s']", 3, "urls: an engine's socket has an unknown form"),
        ("[[model]]\nid = 'm'\nurls = ['http://u:p@h']", 3, "urls: an engine's address holds a name or password"),
        ("[[model]]\nengine = 'vllm'", 1, "a [[model]] table with engine needs weights"),
        ("[[model]]\nengine = 'ollama'\nweights = '/w'", 2, "engine: expected an engine to start: vllm, sglang"),
        (CHILD + "projector = 'p'", 4, "projector: vllm takes none"),
        (CHILD + "arguments = ['--api-key=secret']", 4, "arguments: --api-key is not for the settings"),
        (CHILD + "arguments = ['-x', '--served_model_name', 'x']", 4, "arguments: --served_model_name is not for the"),
        (CHILD + "arguments = 'x'", 4, "arguments: expected a list of words"),
        (CHILD + "arguments = [1]", 4, "arguments: expected a list of words"),
        (CHILD + "[model.environment]\nHF_TOKEN = 'x'", 4, "environment: HF_TOKEN can't be given: variables of an"),
        (CHILD + "[model.environment]\nCONFIDE_X = 'x'", 4, "environment: CONFIDE_X can't be given"),
        (CHILD + "[model.environment]\n'a b' = 'x'", 4, "environment: expected a table of variables"),
        (CHILD + "start_timeout = 0", 4, "start_timeout: expected seconds"),
        (ATTACHED + "total_timeout = nan", 4, "total_timeout: expected seconds"),
        (ATTACHED + "max_outstanding = 0", 4, "max_outstanding: expected the most requests"),
        (ATTACHED + "dialect = 'tgi'", 4, "dialect: expected auto, vllm, sglang"),
        ("workers = 2\n" + CHILD, 1, "workers: an engine that confide starts needs workers = 1"),
        (ATTACHED + ATTACHED, 4, "the model id m is taken twice"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_toml(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/confide.toml line {line}: {message}")
    assert "secret" not in str(caught.value).replace("tell a secret", "")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\n\nport = 99999", 3, "port: expected an integer from 0 to 65535 (0: any free port), got 99999"),
        ("port = '80'", 1, "port: expected an integer from 0 to 65535 (0: any free port), got '80'"),
        ("port = true", 1, "port: expected an integer"),
        ("# port = 1\n'port' = -1", 2, "port: expected an integer"),
        ("host = ''", 1, "host: expected a host name"),
        ("workers = 65", 1, "workers: expected an integer from 1 to 64, got 65"),
        ("keep_alive = nan", 1, "keep_alive: expected seconds"),
        ("queue_timeout = inf", 1, "queue_timeout: expected seconds"),
        ("api_keys = ['sk-confide-x']", 1, 'api_keys: expected a list of "NAME=sha256:DIGEST"'),
        (f"api_keys = ['key_1=sha256:{'0' * 64}']", 1, "api_keys: expected a list"),
        (f"api_keys = ['a=sha256:{'0' * 63}']", 1, "api_keys: expected a list"),
        (f"api_keys = ['a=sha256:{'0' * 64}:open']", 1, "api_keys: expected a list"),
        (f"api_keys = ['a=sha256:{'0' * 64}', 'a=sha256:{'1' * 64}']", 1, "api_keys: the name a is there twice"),
        (f"api_keys = ['a=sha256:{'0' * 64}', 'b=sha256:{'0' * 64}:e2ee']", 1, "api_keys: the digest sha256:0"),
        ("cors_origins = ['example.com']", 1, "cors_origins: expected a list of origins"),
        ("data_dir = 3", 1, "data_dir: expected the path of a folder, got 3"),
        ("prt = 1", 1, "prt: no such setting; did you mean port?"),
        ("host = 'a'\n[modle]\nid = 'x'", 2, "modle: no such setting; did you mean model?"),
        ("model = 3", 1, "model: expected [[model]] tables"),
        ("[model]\nsource = 'a'", 1, "model: expected [[model]] tables"),
        ("[[model]]\nid = 'x'", 1, "a [[model]] table needs source"),
        (
            "[[model]]\nsource = 'a'\n\n[[model]]\nsource = 'b'\nslots = 0",
            6,
            "slots: expected an integer from 1",
        ),
        (
            "[[model]]\nsource = 'a'\nslots = 2\n[[model]]\nsource = 'b'\nslotz = 0",
            6,
            "slotz: no such setting",
        ),
        ("[[model]]\nsource = 'a'\nid = 'no spaces'", 3, "id: expected a public id"),
        ("[[model]]\nsource = 'a'\n[model.pricing]\nprompt = 'free'", 3, "pricing: expected a table"),
        ("[[model]]\nsource = 'a'\npricing = {total = '1'}", 3, "pricing: expected a table"),
        ("[[model]]\nsource = 'a'\n[[model]]\nsource = './a.gguf'", 3, "the model id a is taken twice"),
        ("[[model]]\nsource = 'a'\naliases = ['a']", 1, "the model id a is taken twice"),
        (
            "auth = false\nhost = '0.0.0.0'",
            1,
            "auth: keys can be off only on a loopback address, not on 0.0.0.0",
        ),
        ("host = 'a'\nport = = 1", 2, "Invalid value"),
        ("port = 1\nport = 2", 2, "Cannot overwrite a value"),
        ("host = 'a'\nmodels = [", 2, ""),
    ],
)
def test_the_offending_line_is_named(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_toml(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/confide.toml line {line}: {message}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"CONFIDE_PORT": "tcp://10.0.0.1:80"}, "CONFIDE_PORT: expected an integer from 0 to 65535"),
        ({"CONFIDE_AUTH": "maybe"}, "CONFIDE_AUTH: expected true or false, got maybe"),
        (
            {"CONFIDE_AUTH": "0", "CONFIDE_HOST": "::"},
            "CONFIDE_AUTH: keys can be off only on a loopback address",
        ),
        ({"CONFIDE_KEEP_ALIVE": "nan"}, "CONFIDE_KEEP_ALIVE: expected seconds"),
        ({"CONFIDE_MODEL": "a,b/a"}, "CONFIDE_MODEL: the model id a is taken twice"),
        ({"CONFIDE_CONFIG": "/no/such/file"}, "/no/such/file: can't be read: No such file"),
    ],
)
def test_the_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ=environ)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 65536}, "--port: expected an integer"),
        ({"data_dir": ""}, "--data-dir: expected the path of a folder"),
        ({"auth": False, "host": "example.com"}, "--no-auth: keys can be off only"),
        ({"model": ["x=a", "x=b"]}, "--model: the model id x is taken twice"),
        ({"model": [""]}, "--model: expected a catalogue name"),
        ({"host": "h" * 300, "port": "x" * 300}, "--port: expected an integer"),
    ],
)
def test_the_flag_is_named(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ={})
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 250


def test_a_flag_that_is_no_setting_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="not settings: \\['prot'\\]"):
        load({"prot": 1}, environ={})


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"host = '\xff'")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load({}, environ={}, config_file=tmp_path / "c.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert load({"auth": False, "host": host}, environ={}).auth is False


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "example.com", "127.0.0.1.nip"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_importing_creates_nothing(tmp_path: Path) -> None:
    program = "import confide.config, confide.cli, confide.store.keys, confide.engine.pull"
    variables = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=variables, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Secrets -------------------------------------------------------------------------------------------------------------

URL = "postgresql://confide:s3cret@db.internal/confide"


def test_the_database_from_each_place(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    for settings in (
        from_toml(tmp_path, f'database = "{URL}"'),
        from_toml(tmp_path, f'database_file = "{tmp_path / "url"}"'),
        load({}, environ={"CONFIDE_DATABASE": URL}),
        load({}, environ={"CONFIDE_DATABASE_FILE": str(tmp_path / "url")}),
    ):
        assert settings.database_url() == URL
        assert "s3cret" not in f"{settings!r} {settings}"
        again = pickle.loads(pickle.dumps(settings))  # as workers are given them
        assert again.database_url() == URL
    assert load({}, environ={"CONFIDE_DATA_DIR": str(tmp_path)}).database_url() is None


@pytest.mark.parametrize("wrong", ['"s3cret"', '"mysql://s3cret@h/d"', '["s3cret"]', "5", '""'])
def test_a_database_that_is_none_is_not_quoted(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"confide.toml line 1: database: expected the URL of a PostgreSQL") as caught:
        from_toml(tmp_path, f"database = {wrong}")
    assert "s3cret" not in str(caught.value)


def test_one_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2: database_file: database is set as well; choose one"):
        from_toml(tmp_path, f'database = "{URL}"\ndatabase_file = "url"')


@pytest.mark.parametrize("held", ["", "\n", "two words", "two\nlines", "ümlaut", "x" * 4097])
def test_a_file_that_holds_no_secret(tmp_path: Path, held: str) -> None:
    (tmp_path / "url").write_text(held)
    with pytest.raises(ConfigError, match="url: expected the URL of a database, one line of ASCII") as caught:
        from_toml(tmp_path, f'database_file = "{tmp_path / "url"}"').database_url()
    assert "words" not in str(caught.value)
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        from_toml(tmp_path, f'database_file = "{tmp_path / "absent"}"').database_url()


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_where_metrics_are(tmp_path: Path, written: str, address: tuple[str, int]) -> None:
    assert from_toml(tmp_path, f'metrics = "{written}"').metrics_address == address
    assert load({}, environ={}).metrics is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('metrics = "0.0.0.0:9464"', "needs metrics_token_file on any but a loopback address"),
        ('metrics = "[::]:9464"', "needs metrics_token_file"),
        ('metrics = "metrics.internal:9464"', "needs metrics_token_file"),
        ('metrics = "localhost:0"', "expected a port from 1 to 65535, got 0"),
        ('metrics = "localhost:65536"', "expected a port from 1 to 65535"),
        ('metrics = "localhost"', "expected where GET /metrics listens"),
        ('metrics = "http://localhost:9464"', "expected where GET /metrics listens"),
        ("metrics = true", "expected where GET /metrics listens"),
        ('metrics_token_file = "token"', "has a meaning only with metrics"),
    ],
)
def test_metrics_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_toml(tmp_path, text)
    if "needs" in message:
        assert from_toml(tmp_path, f'{text}\nmetrics_token_file = "token"').metrics
