"""Where ring 0's journal may lie: what is refused before anything is started or moved."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from enjin import config as configuration
from enjin.cli import enjin
from enjin.errors import ConfigError, EnjinError, code_of
from ring0 import raising
from ring0.commands import journal
from ring0.foundation import write_foundation
from tests.ring0.test_launch import foundation


def config(home: Path, where: str = "sqlite") -> configuration.Config:
    return configuration.load({"home": str(home), "journal": where}, {})


def refused(asked: str, founded: str | None, home: Path, running: bool = False) -> str:
    """Return the code with which a cloud is not raised; "" when nothing stands against it."""
    made = None if founded is None else msgspec.structs.replace(foundation(20_000), journal=founded)
    try:
        raising.check_journal(config(home, asked), made, running)
    except EnjinError as error:
        return code_of(error)
    return ""


def test_where_a_cloud_may_be_raised(home: Path) -> None:
    """What is asked for has to be what is, and a server has to answer before a daemon is started on it."""
    nowhere = f"postgresql:///enjin?host={home}"
    assert refused("sqlite", None, home) == ""
    assert refused("sqlite", "", home) == ""
    assert refused(nowhere, None, home) == "E-JNL-021"
    assert refused(nowhere, "", home) == ConfigError.code
    assert refused(nowhere, nowhere, home) == "E-JNL-021"
    assert refused("sqlite", nowhere, home) == "E-JNL-021"
    assert refused("sqlite", nowhere, home, running=True) == ""
    assert refused(f"{nowhere}&nonsense=1", None, home) == "E-JNL-019"


def test_an_address_of_another_kind_is_no_configuration(home: Path) -> None:
    """Only a file or PostgreSQL."""
    with pytest.raises(configuration.BadConfig, match="journal"):
        config(home, "mysql://x/y")


def test_the_command_tells_where_it_lies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file by its path, a database without user and password; without a cloud there is none."""
    monkeypatch.setenv("ENJIN_HOME", str(home))
    with pytest.raises(EnjinError, match="no cloud"):
        enjin.main(["journal", "where"], standalone_mode=False)
    write_foundation(home, foundation(20_000))
    told = CliRunner().invoke(journal.journal, ["where", "--json"])
    assert json.loads(told.output) == {"schema": 1, "kind": "sqlite", "place": str(home / "ring0/journal.db")}
    write_foundation(home, msgspec.structs.replace(foundation(20_000), journal="postgresql://me@db1,db2/enjin"))
    told = CliRunner().invoke(journal.journal, ["where", "--json"])
    assert json.loads(told.output) == {"schema": 1, "kind": "postgresql", "place": "the database 'enjin' on db1,db2"}


def test_a_journal_is_moved_once(home: Path) -> None:
    """What lies in one database is not moved to another."""
    made = msgspec.structs.replace(foundation(20_000), journal="postgresql://db1/enjin")
    with pytest.raises(EnjinError, match="already"):
        journal.move(home, made, "postgresql://db2/enjin")
