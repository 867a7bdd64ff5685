"""A journal's server over TCP: TLS that checks who answers, an authority of our own, and every way in which it may be wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.journal import Reader, SharedJournal
from bus.journal.shared_store import PostgresStore
from bus.journal.tls import is_here
from enjin.errors import EnjinError, code_of
from keys.certificates import BUS_NAME, CertificateAuthority
from tests.bus.journal.small_world import FACTS, Add, Asking, SmallTables, SmallWorld, identity
from tests.bus.postgres_servers import DATABASE, Servers, running
from tests.places import free_port_base

OWN, OTHER = (CertificateAuthority(bytes([digit]) * 32, str(digit) * 12) for digit in (1, 2))
DAY_S = 86_400


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """A server that listens on TCP with a certificate of our authority, and a database."""
    with running() as found:
        found.primary.stop()
        leaf = OWN.leaf(b"s" * 32, (), now_s=int(time.time()), lifetime_s=DAY_S)
        found.primary.port = free_port_base()
        found.primary.start(**found.primary.speak_tls(leaf.certificate, leaf.key))
        found.url()
        yield found


@pytest.fixture
def authorities(tmp_path: Path) -> dict[str, Path]:
    """The files of our authority and of another."""
    files = {"own": tmp_path / "own.pem", "other": tmp_path / "other.pem"}
    files["own"].write_bytes(OWN.certificate)
    files["other"].write_bytes(OTHER.certificate)
    return files


def address(servers: Servers, mode: str, authority: Path, host: str = BUS_NAME) -> str:
    """Return an address by which the server is reached over TCP: as *host*, whose address is given, so that nobody is asked for it."""
    where = f"postgresql://postgres@{host}:{servers.primary.port}/{DATABASE}?hostaddr=127.0.0.1"
    return f"{where}&sslmode={mode}&sslrootcert={authority}"


def refused(url: str) -> EnjinError:
    """Return what both the writer and a reader of *url* are refused with."""
    found: list[EnjinError] = []
    for opening in (PostgresStore, Reader):
        with pytest.raises(EnjinError) as caught:
            opening(url)
        found.append(caught.value)
    assert len({code_of(error) for error in found}) == 1
    assert all("\n" not in str(error) for error in found)
    return found[0]


def test_a_journal_is_written_over_tls(servers: Servers, authorities: dict[str, Path], tmp_path: Path) -> None:
    """With our authority and the server's name every session is encrypted, and the journal is as any other."""
    url = address(servers, "verify-full", authorities["own"])
    shapes: dict[str, Any] = {"identity": identity(), "world_factory": SmallWorld, "facts": FACTS, "projection": SmallTables()}

    async def write() -> list[Any]:
        journal = SharedJournal.open(url, **shapes, beside=f"sqlite:///{tmp_path}/p.db", holder="meta-1")
        try:
            await Asking(Add(name="a")).of(journal)
            plain = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'enjin'"
            return servers.primary.sql(plain)
        finally:
            await journal.close()

    encrypted = asyncio.run(write())
    assert len(encrypted) >= 2  # the writer and a reader
    assert set(encrypted) == {(True,)}
    with Reader(url) as reader:
        assert reader.meta().head.number == 1  # type: ignore[union-attr]


def test_who_does_not_prove_to_be_the_server_gets_nothing(servers: Servers, authorities: dict[str, Path], tmp_path: Path) -> None:
    """Another authority, another name, no authority at all: one line, a stable code, to be tried again when it is mended."""
    wrong = (
        address(servers, "verify-full", authorities["other"]),
        address(servers, "verify-full", authorities["own"], host="db.enjin.internal"),
        address(servers, "verify-full", tmp_path / "absent.pem"),
    )
    for url in wrong:
        error = refused(url)
        assert (code_of(error), error.retry) == ("E-JNL-025", True), error


def test_a_server_without_tls_is_not_spoken_to(authorities: dict[str, Path]) -> None:
    """Whoever stands between and says that there is no TLS gets nothing either."""
    with running() as plain:
        plain.primary.stop()
        plain.primary.port = free_port_base()
        plain.primary.start(listen_addresses="127.0.0.1")
        assert code_of(refused(address(plain, "verify-full", authorities["own"]))) == "E-JNL-025"


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca"])
def test_less_than_that_is_for_this_machine_only(mode: str, authorities: dict[str, Path]) -> None:
    """To another machine nothing but verify-full is sent a byte: neither plain TCP, nor TLS with whoever answers."""
    elsewhere = ("192.0.2.1", "db.example", "localhost.example", "[2001:db8::1]", "127.0.0.1,192.0.2.1")
    for host in elsewhere:
        error = refused(f"postgresql://me:hunter2@{host}/enjin?sslmode={mode}&sslrootcert={authorities['own']}")
        assert (code_of(error), error.retry) == ("E-JNL-024", False)
        assert "verify-full" in error.hint
        assert "hunter2" not in f"{error} {error.hint}"
    assert code_of(refused("postgresql:///enjin?service=db")) == "E-JNL-019"


def test_the_environment_opens_no_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libpq would take the host from a variable, the same holds."""
    for variable in ("PGHOST", "PGHOSTADDR"):
        monkeypatch.setenv(variable, "192.0.2.1")
        assert code_of(refused("postgresql:///enjin")) == "E-JNL-024"
        monkeypatch.delenv(variable)


def test_what_is_here() -> None:
    """Sockets and loopback, by address or by its one name."""
    here = ("", "/run/postgresql", "@abstract", "localhost", "127.0.0.1", "127.9.9.9", "::1")
    assert [host for host in here if not is_here(host)] == []
    assert [host for host in ("10.0.0.1", "::", "0.0.0.0", "db", "localhost.", "1") if is_here(host)] == []
