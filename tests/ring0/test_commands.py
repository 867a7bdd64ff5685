"""Ring 0's command line without a cloud: usage, help, what is printed, the doctor and the sample configuration."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from bus.messages import Table, canonical, parse
from compartments.accounts import authenticate, secret_hash, token_text
from compartments.rows import Account, Grant, KeyRequest
from enjin import config as configuration
from enjin.cli import enjin
from enjin.errors import EnjinError
from keys.keyring import Keyring
from keys.requests import prove
from ring0.commands import approving, audit, bus, client, genesis, joining, journal, machine, nodes, roots, tokens, trust, world
from ring0.compartments import CreateCompartment
from ring0.graph import ShowGraph
from ring0.keys import EnrollKey, ListKeys, RevokeKey
from ring1.services import SERVICES as RING1
from tests.ring0.book import CLOUD, KEYS, OPERATOR, Book, founded
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import asking

WORLD = (world.compartment, world.tier, world.network, world.address, nodes.node)
GROUPS = (*WORLD, trust.key, roots.root, tokens.token, audit.audit, bus.bus, journal.journal)
LISTING = {"list", "show", "secrets"}
# What changes nothing that a journal tells of; repair puts back what a journal told already.
READING = LISTING | {"log", "verify", "export", "diff", "repair", "tail", "logs", "bench", "journal migrate", "where"}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command of the groups with its words."""
    for group in (*GROUPS, joining.token):
        for name, command in group.commands.items():
            yield f"{group.name} {name}", command


@pytest.mark.parametrize(("words", "command"), [pytest.param(words, command, id=words) for words, command in commands()])
def test_every_command_takes_the_promised_options(words: str, command: click.Command) -> None:
    """Every command prints JSON and explains itself; a changing one takes a reason; a listing of ring 0 takes a time."""
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    assert command.help
    verb = words.split()[1]
    assert ("--reason" in options) == (not READING.intersection((verb, words)))
    assert ("--at" in options) == (verb in LISTING)


ALONE = (approving.approve, approving.approvals, world.graph, machine.doctor, machine.init, genesis.genesis, joining.join)


@pytest.mark.parametrize("group", [*GROUPS, *ALONE], ids=lambda group: str(group.name))
def test_help_opens_with_examples(group: click.Command) -> None:
    """`--help` needs no cloud and shows how it is used."""
    done = CliRunner().invoke(group, ["--help"])
    assert done.exit_code == 0
    assert done.output.count(f"enjin {group.name}") >= 2


@pytest.mark.parametrize(
    "words",
    [
        "tier create",
        "node stop",
        "address assign fabric",
        "key revoke abc",
        "token create x --ring 2",
        "audit log --limit 0",
        "key create x --role root",
    ],
)
def test_wrong_usage(words: str) -> None:
    """What cannot be meant is refused before anything is sent."""
    with pytest.raises(click.UsageError):
        enjin.main(words.split(), standalone_mode=False)


def test_times_are_told_twice() -> None:
    """JSON has RFC 3339 in UTC, also deep inside; a time that is not is empty; other numbers stay."""
    told = client.told([{"created": 1_700_000_000_000_000, "expires": 0, "count": 3, "inner": [{"since": 1_700_000_000_123_456}]}])
    assert told == [{"created": "2023-11-14T22:13:20.000Z", "expires": "", "count": 3, "inner": [{"since": "2023-11-14T22:13:20.123Z"}]}]


def test_the_graph_as_a_list() -> None:
    """Everything stands beneath where it lies, what lies in two compartments beneath both; who supervises whom is left out."""
    book = founded()
    book.ask(CreateCompartment(name="tenant-a"))
    lines = world.tree(book.answer(ShowGraph()))
    assert lines[0] == "cloud cloud"
    assert "  tenant-a environment" in lines
    assert "      ring0 host running" in lines
    assert len(lines) == len(book.answer(ShowGraph())["nodes"])


@pytest.mark.parametrize(("text", "seconds"), [("", 0), ("30m", 1_800), ("12h", 43_200), ("90d", 7_776_000)])
def test_a_tokens_life(text: str, seconds: int) -> None:
    """Minutes, hours, days; nothing is for ever."""
    assert tokens.life_s(text) == seconds


@pytest.mark.parametrize("text", ["d", "0d", "1w", "-1d", "1.5h", "9999999d", "٣d"])
def test_a_life_that_is_none(text: str) -> None:
    """Refused with a code."""
    with pytest.raises(EnjinError) as caught:
        tokens.life_s(text)
    assert caught.value.code == "E-CLI-011"


def test_what_is_said_to_ring_1_is_what_ring_1_reads() -> None:
    """Rings share no code: the shapes of this command line are read by ring 1's own table, byte for byte."""
    table = Table.of(*RING1)
    for wish in (
        tokens.CreateRing1Token(name="ci", secret_hash="0" * 64, compartment="tenant-a", role="operator", life_s=60),
        tokens.RevokeRing1Token(token="ci"),
    ):
        shape = table.rule(wish.KIND).command
        assert canonical(parse(canonical(wish), shape)) == canonical(wish)
    for query in (tokens.ListRing1Tokens(compartment="tenant-a"), trust.ShowRing1Charter()):
        shape = table.question(query.KIND).query
        assert canonical(parse(canonical(query), shape)) == canonical(query)


def test_a_token_as_it_is_shown_is_the_one_that_counts() -> None:
    """The text is made of the id and the secret, whose hash alone is known to the journal."""
    from ring0.accounts import CreateToken

    book, secret = founded(), "5e" * 32
    wish = CreateToken(account=OPERATOR, name="ci", compartment="cloud", role="operator", secret_hash=secret_hash(secret))  # type: ignore[arg-type]
    made = book.ask(wish)
    found = authenticate(book.world, token_text(made["id"], secret), book.time)
    assert found is not None
    assert (found.id, found.token) == (OPERATOR, made["id"])
    assert authenticate(book.world, token_text(made["id"], "5f" * 32), book.time) is None


def test_a_key_is_asked_for_and_granted() -> None:
    """A request makes the account and waits; the grant ends it; the same key is not asked for twice."""
    book = founded()
    said = book.ask(asking("alice"))
    account = book.world.first(Account, name="alice")
    assert account is not None
    waiting = book.world.all(KeyRequest)
    assert [(row.key, row.subject, row.role) for row in waiting] == [(said["key"], account.id, 2)]
    refused(book, asking("alice"), "E-KEY-005")
    book.ask(EnrollKey(frame=KEYS.grant(account.id, "alice")))
    assert book.world.all(KeyRequest) == []
    assert [row.key for row in book.world.find(Grant, subject=account.id)] == [said["key"]]
    refused(book, asking("alice"), "E-KEY-005")
    book.ask(RevokeKey(key=said["key"]))
    refused(book, asking("alice"), "E-KEY-005")
    book.ask(asking("alice", word="alice's second"))
    assert book.world.digest() == book.replayed().digest()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"proof": prove(Keyring(CLOUD, b"x" * 32), "alice")}, "E-SIG-001"),
        ({"proof": prove(Keyring(CLOUD, hashlib.sha256(b"alice").digest()), "bob")}, "E-SIG-001"),
        ({"proof": "not base64url!"}, "E-MSG-002"),
        ({"message": "00" * 32}, "E-SIG-002"),
        ({"message": "zz"}, "E-SIG-002"),
        ({"curve": "AB" * 32}, "E-SIG-002"),
        ({"compartment": "nowhere"}, "E-CMP-001"),
    ],
)
def test_keys_that_are_not_granted(fields: dict[str, Any], code: str) -> None:
    """Somebody else's proof, one for another name, no key at all, an unknown place."""
    refused(founded(), msgspec.structs.replace(asking("alice"), **fields), code)


def test_nobody_asks_for_more_than_they_have() -> None:
    """An operator of one compartment makes no operator of the cloud, and nobody raises an account by a key."""
    book = founded()
    refused(book, asking("alice"), "E-ENJ-002", compartment="cloud/default")
    book.ask(asking("bob", role="tenant", compartment="default"))
    refused(book, asking("bob", word="more"), "E-ENJ-002")


def test_there_are_only_so_many_people() -> None:
    """A charter carries every person's grant, so their number is bounded; machines have tokens."""
    book = founded()
    for number in range(15):
        book.ask(asking(f"person-{number}"))
    refused(book, asking("one-too-many"), "E-KEY-006")
    assert len(book.answer(ListKeys())) == 2


def test_the_doctor_looks_at_everything() -> None:
    """Every finding has a state; what is not well comes with a remedy of one line."""
    done = CliRunner().invoke(machine.doctor, ["--json"])
    told = json.loads(done.stdout)
    names = [finding["name"] for finding in told["findings"]]
    assert {"user namespaces", "control groups", "kvm", "haproxy", "bwrap", "slirp4netns", "nft", "file limit", "clock"} <= set(names)
    assert len(names) == len(set(names))
    for finding in told["findings"]:
        assert finding["state"] in ("ok", "weak", "missing")
        assert bool(finding["remedy"]) == (finding["state"] != "ok"), finding
        assert "\n" not in finding["remedy"] + finding["detail"]
    assert done.exit_code == (0 if told["ok"] else 1)


def test_the_doctor_misses_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program that is not there is named with the package that holds it; one too old is found out."""
    monkeypatch.setattr(machine, "SEARCH", str(tmp_path))
    (tmp_path / "nft").write_text("#!/bin/sh\necho nftables v0.9.8\n")
    (tmp_path / "nft").chmod(0o755)
    found = {finding.name: finding for finding in machine.programs()}
    assert {finding.state for finding in found.values()} == {"missing"}
    assert found["haproxy"].remedy.startswith("apt-get install haproxy")
    assert (found["haproxy"].detail, found["nft"].detail) == ("not installed", "0.9.8")


def test_the_sample_names_every_key_and_changes_nothing() -> None:
    """Every key stands in it with its meaning and default; as it is it holds none; with every # removed it holds the defaults."""
    text = machine.sample()
    assert set(machine.MEANINGS) == set(configuration.Config.__struct_fields__)
    assert tomllib.loads(text) == {}
    bare = "\n".join(line.removeprefix("#") for line in text.splitlines() if not line.startswith("# "))
    assert tomllib.loads(bare) == msgspec.to_builtins(configuration.defaults())


def test_init_never_overwrites(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It writes once; a second time it refuses and leaves the file as it is; `--show` writes nothing."""
    path = tmp_path / "deep" / "enjin.toml"
    monkeypatch.setattr(configuration, "file_path", lambda: path)
    assert CliRunner().invoke(machine.init, ["--show"]).stdout == machine.sample()
    assert not path.exists()
    assert CliRunner().invoke(machine.init, []).exit_code == 0
    path.write_text(path.read_text() + "port_base = 9000\n")
    again = CliRunner().invoke(machine.init, [])
    assert isinstance(again.exception, machine.ConfigThere)
    assert again.exception.exit_status == 2
    assert path.read_text().endswith("port_base = 9000\n")


def test_a_book_can_be_asked_as_the_command_line_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands send is in the closed table, and what they print is what it answers."""
    book: Book = founded()
    monkeypatch.setattr(world, "want", lambda wish, _reason: book.ask(wish))
    monkeypatch.setattr(world, "ask", lambda query: book.answer(query))
    runner = CliRunner()
    made = runner.invoke(world.compartment, ["create", "tenant-a", "--summary", "x", "--json"], catch_exceptions=False)
    assert json.loads(made.stdout)["path"] == "cloud/tenant-a"
    assert "cloud/tenant-a" in runner.invoke(world.compartment, ["list"], catch_exceptions=False).stdout
    runner.invoke(world.tier, ["create", "mail", "--single"], catch_exceptions=False)
    shown = json.loads(runner.invoke(world.tier, ["show", "mail", "--json"], catch_exceptions=False).stdout)
    assert (shown["name"], shown["single"], shown["nodes"]) == ("mail", True, [])
    runner.invoke(world.network, ["create", "lab", "--ipv4", "10.99.0.0/24"], catch_exceptions=False)
    assert "10.99.0.0/24" in runner.invoke(world.network, ["list"], catch_exceptions=False).stdout
    assert json.loads(runner.invoke(world.graph, ["--json"], catch_exceptions=False).stdout)["schema"] == 1


@pytest.mark.parametrize(("needed", "words"), [(1, "1 other operator "), (2, "2 other operators ")])
def test_what_waits_ends_with_a_status_of_its_own(needed: int, words: str) -> None:
    """A result passes; a request that waits is told with how to approve it, how things stand meanwhile, and exit status 3."""
    assert approving.settled({"version": 2}) == {"version": 2}
    assert approving.settled(None) is None
    request = {"id": "q-0123456789abcdef", "what": "trust.rotate", "needed": needed, "expires": 1_700_000_000_000_000}
    with pytest.raises(approving.WaitsForApproval) as waits:
        approving.settled({"approval": request}, "the old root stays")
    assert (waits.value.exit_status, waits.value.message.endswith("; the old root stays")) == (3, True)
    assert words in waits.value.message
    assert "enjin approve q-0123456789abcdef" in waits.value.hint
