"""A PostgreSQL server of the tests' own: in a folder under /tmp, on a unix socket in it, with a password."""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

_PROGRAMS = "/usr/lib/postgresql/*/bin"


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    found = shutil.which(name) or next(iter(sorted(Path("/").glob(f"{_PROGRAMS[1:]}/{name}"), reverse=True)), None)
    assert found, f"the tests need PostgreSQL 13 or later ({name}): apt-get install postgresql, or put it on the PATH"
    return str(found)


@dataclass
class Postgres:
    """A server, and how to treat it badly."""

    folder: Path
    password: str = field(default_factory=lambda: "p%4w/" + secrets.token_hex(8), repr=False)
    _names: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def url(self, schema: str = "public") -> str:
        """Where a client finds it, in a schema that is there already."""
        password = self.password.replace("%", "%25").replace("/", "%2F")
        options = "" if schema == "public" else f"&options=-csearch_path%3D{schema}"
        return f"postgresql://confide:{password}@/postgres?host={self.folder}{options}"

    def fresh(self) -> str:
        """The URL of an empty schema, which is as good as a database of its own."""
        schema = f"test_{next(self._names)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        return self.url(schema)

    def make(self) -> None:
        """The files of an empty server."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            shutil.chown(secret, "postgres", "postgres")
        self._do("initdb", "--username=confide", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8")
        with (self.folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nmax_connections = 60\n")

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        self._do("pg_ctl", "--wait", f"--log={self.folder / 'log'}", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast`` ends connections, ``immediate`` is as if the machine had crashed."""
        self._do("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def restart(self, mode: str = "fast") -> None:
        """Stop and start it."""
        self.stop(mode)
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """None of its processes runs, as on a machine that hangs; connections stay open."""
        processes = self._processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def _processes(self) -> list[int]:
        parent = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
        return [parent, *map(int, children.split())]

    def _do(self, name: str, *arguments: str) -> None:
        who = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses to run as root
        done = subprocess.run(
            [program(name), f"--pgdata={self.folder / 'data'}", *arguments],
            user=who if os.geteuid() == 0 else None,
            group=who if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running() -> Iterator[Postgres]:
    """A server, until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="confide-pg-"))
    server = Postgres(folder)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.stop("immediate")
    finally:
        shutil.rmtree(folder)
