"""A whole cloud whose ring 0 journals in PostgreSQL: moved there, and without its server for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus.postgres_servers import DATABASE, Servers, running
from tests.cloud import wait_for
from tests.e2e.clouds import Raised, raised
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
BACK_S = 60.0


@pytest.fixture
def servers() -> Iterator[Servers]:
    """A server that the daemon's uid reaches."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with running(unix_socket_permissions="0777") as found:
        found.primary.folder.chmod(0o755)
        yield found


@pytest.fixture
def cloud(servers: Servers) -> Iterator[Raised]:
    """A cloud with its journal in a file."""
    with temporary_home() as folder, raised(folder, free_port_base()) as made:
        yield made


def refusal(cloud: Raised, *words: str) -> str:
    """Return what a command that has to be refused says."""
    done = cloud.run(*words, check=False)
    assert done.returncode in (1, 2)
    return done.stderr


def names(cloud: Raised) -> set[str]:
    return {row["name"] for row in cloud.json("compartment", "list")}


def test_a_cloud_moves_to_postgresql_and_survives_its_server(servers: Servers, cloud: Raised, tmp_path: Path) -> None:
    """Nothing is lost on the way; without the server commands are refused with a code, reading goes on, and it resumes by itself."""
    url = servers.url()
    cloud.run("compartment", "create", "before")
    assert "E-CLI-021" in refusal(cloud, "journal", "migrate", url)
    head = cloud.head(0)
    cloud.run("down")
    assert "E-JNL-021" in refusal(cloud, "journal", "migrate", f"postgresql:///{DATABASE}?host={tmp_path}&user=postgres")
    assert "E-JNL-019" in refusal(cloud, "journal", "migrate", f"{url}&password=secret")
    done = cloud.json("journal", "migrate", url)
    assert done["entries"] == done["copied"] >= head.number
    again = cloud.json("journal", "migrate", url)
    assert (again["entries"], again["copied"]) == (done["entries"], 0)
    servers.primary.folder.chmod(0o700)
    assert "ring 0's daemon has" in refusal(cloud, "up")
    servers.primary.folder.chmod(0o755)
    cloud.run("up")
    assert cloud.json("journal", "where")["kind"] == "postgresql"
    assert "before" in names(cloud)
    cloud.run("compartment", "create", "after")
    count = servers.primary.sql("SELECT count(*) FROM journal_entries", DATABASE)[0][0]
    assert count > done["entries"]

    daemon = cloud.one("ring0.daemon")
    servers.primary.kill()
    assert "E-JNL-0" in refusal(cloud, "compartment", "create", "lost")
    wait_for(
        lambda: "E-JNL-021" in cloud.run("compartment", "create", "lost", check=False).stderr, BACK_S, "the server is known to be away"
    )
    assert {"before", "after"} <= names(cloud)
    assert "lost" not in names(cloud)
    servers.primary.start(unix_socket_permissions="0777")
    wait_for(lambda: cloud.run("compartment", "create", "back", check=False).returncode == 0, BACK_S, "commands are taken again")
    assert cloud.one("ring0.daemon") == daemon

    os.kill(daemon.pid, signal.SIGKILL)
    cloud.wait_back(lambda: cloud.one("ring0.daemon"), daemon)
    wait_for(lambda: cloud.run("compartment", "create", "anew", check=False).returncode == 0, BACK_S, "the next daemon decides")
    assert {"before", "after", "back", "anew"} <= names(cloud)
    assert [row["ok"] for row in cloud.json("audit", "verify")["rings"]] == [True, True]


def test_a_cloud_is_founded_on_postgresql(servers: Servers) -> None:
    """`enjin up --journal` makes no journal in a file at all."""
    url = servers.url()
    with temporary_home() as folder, raised(folder, free_port_base(), "--journal", url) as made:
        assert made.json("journal", "where")["kind"] == "postgresql"
        assert not (made.home / "ring0/journal.db").exists()
        assert servers.primary.sql("SELECT count(*) > 0 FROM journal_entries", DATABASE) == [(True,)]
        made.run("up")
