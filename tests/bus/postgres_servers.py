"""Real PostgreSQL servers for tests: in a folder of their own, as an unprivileged user, on a Unix socket, ended with the test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.places import temporary_home

DEADLINE_S = 30.0
DATABASE = "enjin"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "max_wal_senders": "4",
    "dynamic_shared_memory_type": "mmap",  # a file of its folder, and nothing that a kill leaves elsewhere
    "wal_init_zero": "off",
    "autovacuum": "off",
}


def find_programs() -> Path | None:
    """Return the folder of the newest server's programs; None when PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def programs() -> Path:
    """Return the folder of the newest server's programs, or skip the test."""
    found = find_programs()
    if found is None:
        import pytest  # the figures run without it

        pytest.skip("PostgreSQL is not installed: apt-get install postgresql-15")
    return found


class Server:
    """One server's data, and its process while it runs."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.folder, self.name, self.port = folder, name, port
        self.data = folder / name
        self.process: subprocess.Popen[bytes] | None = None
        self.programs = programs()

    def run(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        done = subprocess.run([self.programs / program, *words], capture_output=True, text=True, check=False, **self._as_user())
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> dict[str, Any]:
        """A server refuses to run as root."""
        words: dict[str, Any] = {"cwd": self.folder, "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, "stdin": subprocess.DEVNULL}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            words |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        return words

    def make(self) -> None:
        """Make an empty cluster of databases."""
        words = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1")
        self.run("initdb", "-D", str(self.data), *words)

    def copy_of(self, primary: Server) -> None:
        """Become a replica of *primary*, which runs."""
        words = ("-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self.run("pg_basebackup", "-h", str(self.folder), "-p", str(primary.port), "-D", str(self.data), *words)

    def start(self, **settings: str) -> None:
        """Start, and return when it answers."""
        chosen = SETTINGS | {"unix_socket_directories": str(self.folder), "port": str(self.port), "cluster_name": self.name} | settings
        command = [self.programs / "postgres", "-D", self.data, *(f"--{key}={value}" for key, value in chosen.items())]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())
        until(self._answers, "the server answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / f"{self.name}.log").read_text(encoding="utf-8")[-2_000:]
        with contextlib.suppress(psycopg.OperationalError), self.session():
            return True
        return False

    def session(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a session of the administrator."""
        return psycopg.connect(host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True)

    def speak_tls(self, certificate: bytes, key: bytes) -> dict[str, str]:
        """Put a certificate and its key (PEM) where the server finds them; return the settings with which it answers TCP by TLS alone."""
        for name, text in (("server.crt", certificate), ("server.key", key)):
            (path := self.data / name).write_bytes(text)
            path.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(path, "postgres", "postgres")
        rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"
        (self.data / "pg_hba.conf").write_text(rules, encoding="ascii")
        return {"listen_addresses": "127.0.0.1", "ssl": "on"}

    def sql(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement as administrator and return its rows."""
        with self.session(database) as session:
            cursor = session.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def promote(self) -> None:
        """Make a replica a primary, and return when it takes writes."""
        assert self.sql("SELECT pg_promote(true, 30)") == [(True,)]

    def kill(self) -> None:
        """kill -9; the server's children end by themselves when they see it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop without writing anything more, unless it has ended already; what was acknowledged is in its log."""
        self._end(signal.SIGQUIT)

    def end(self) -> None:
        """Stop, and take away what a kill has left: the segment of shared memory that guards the data."""
        self.stop()
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], check=False, capture_output=True)

    def pause(self) -> None:
        """Let no process of the server run until ``resume``; its sockets stay open."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run again."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        """Return this server's processes: the one that we started and its children."""
        if self.process is None:
            return []
        own = self.process.pid
        return [own, *(int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split())]

    def _end(self, number: int) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        os.kill(process.pid, signal.SIGCONT)
        process.send_signal(number)
        process.wait(DEADLINE_S)
        until(lambda: all(_ended(int(pid)) for pid in children), "the server's children end")


def _ended(pid: int) -> bool:
    """Return whether no process *pid* runs: one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Any, what: str) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)


class Servers:
    """A primary, and a synchronous replica where a test wants one."""

    def __init__(self, folder: Path) -> None:
        self.primary, self.replica = Server(folder, "first", 5432), Server(folder, "second", 5433)
        self._made: set[str] = set()

    def url(self, name: str = DATABASE) -> str:
        """Make the database *name*, or empty it, and return its address, which names both servers."""
        if name in self._made:  # a new one is hundreds of files
            self.primary.sql(f'ALTER DATABASE "{name}" RESET ALL')
            self.primary.sql("DROP SCHEMA public CASCADE", name)
            self.primary.sql("CREATE SCHEMA public", name)
        else:
            self.primary.sql(f'CREATE DATABASE "{name}"')
            self._made.add(name)
        return self.address(name)

    def address(self, name: str) -> str:
        """Return the address of the database *name*."""
        ours = (self.primary, self.replica)
        hosts, ports = ",".join(str(server.folder) for server in ours), ",".join(str(server.port) for server in ours)
        return f"postgresql:///{name}?host={hosts}&port={ports}&user=postgres"

    def replicate(self) -> None:
        """Start the replica, and let no commit be acknowledged without it from now on."""
        self.replica.copy_of(self.primary)
        self.replica.start()
        self.primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'second'")
        self.primary.sql("SELECT pg_reload_conf()")
        attached = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: self.primary.sql(attached) == [(1,)], "the replica is attached")


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Servers]:
    """Run a primary with *settings*; end whatever of it runs, and remove its folder."""
    programs()
    with temporary_home() as home:
        folder = home / "pg"
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        servers = Servers(folder)
        try:
            servers.primary.make()
            servers.primary.start(**settings)
            yield servers
        finally:
            servers.replica.end()
            servers.primary.end()
