"""The ground: canonical messages, names, configuration, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.messages import Asker, Command, Fact, Malformed, Moment, NotCanonical, Role, Rule, Table, canonical, parse
from enjin import config, host
from enjin.canonical import from_text, to_text
from enjin.errors import CODES, EnjinError, InvariantError, Refused, from_reply
from enjin.log import Secret
from enjin.names import BadName, Name, RequestId


class Ping(Command, kind="test.ping"):
    """Say ping."""

    text: str
    count: int = 1
    name: Name | None = None


class Pinged(Fact, kind="test.pinged"):
    """Was pinged."""

    text: str


@given(st.text(max_size=50).filter(lambda text: text.isprintable()), st.integers(-(2**53), 2**53))
def test_a_message_has_one_spelling(text: str, count: int) -> None:
    """Encoding and strict parsing are inverse."""
    wish = Ping(text=text, count=count)
    assert wish == parse(canonical(wish), Ping)


class Colour(Command, kind="test.colour"):
    """Say a colour."""

    name: str = "red"
    depth: int = 30_000
    inner: Ping = Ping(text="a default")


def test_a_default_that_was_read_is_omitted_too() -> None:
    """A value equal to its default has one spelling, whether it was given, read or left out."""
    given = Colour(name="".join(["r", "ed"]), depth=int("30000"), inner=Ping(text="a defaul" + "t"))
    assert b"{}" == canonical(given) == canonical(Colour())
    with pytest.raises(NotCanonical):
        parse(b'{"name":"red"}', Colour)


@pytest.mark.parametrize(
    "data",
    [b'{"text": "a"}', b'{"text":"a","count":1}', b'{"text":"a","text":"a"}', b'{"count":2,"text":"\\u0061"}', b'{"text":"a","count":2}'],
)
def test_n03_second_spellings_are_refused(data: bytes) -> None:
    """N3, N4: spaces, written-out defaults, duplicate keys, escapes and another order are refused."""
    with pytest.raises((NotCanonical, Malformed)):
        parse(data, Ping)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"text":1}', b'{"other":1,"text":"a"}', b'{"text":NaN}', b"[" * 10**5, b'{"text":"\\ud800"}', b"\xff"]
)
def test_n04_malformed_bytes_are_refused(data: bytes) -> None:
    """N4: missing, unknown and mistyped fields, NaN, deep nesting, lone surrogates."""
    with pytest.raises(Malformed):
        parse(data, Ping)


def test_names_are_parsed_inside_messages() -> None:
    """A field of a name type is checked where bytes become a message."""
    assert Name("web") == parse(b'{"name":"web","text":"a"}', Ping).name
    with pytest.raises(BadName):
        parse(b'{"name":"../x","text":"a"}', Ping)


@given(st.binary(max_size=100))
def test_text_of_bytes_has_one_spelling(data: bytes) -> None:
    """base64url text and bytes are inverse."""
    assert data == from_text(to_text(data))


@pytest.mark.parametrize("text", ["a", "Ab", "-ab", "ab-", "a" * 33, "a.b", "a b", "a\n", "ä1", "", "a;b", "$(x)", "..", "ab\0"])
def test_n59_bad_names_are_refused(text: str) -> None:
    """N59: names match in full or are refused."""
    with pytest.raises(BadName):
        Name.parse(text)


def test_facts_carry_their_kind() -> None:
    """A fact's JSON says which fact it is."""
    assert canonical(Pinged(text="a")) == b'{"kind":"test.pinged","text":"a"}'


def test_a_table_is_closed() -> None:
    """A kind stands in a table once; unknown kinds are refused."""
    rule = Rule(Ping, lambda wish, world, at: iter(()), Role.OPERATOR)
    table = Table.of((rule,))
    assert rule is table.rule("test.ping")
    with pytest.raises(Refused):
        table.rule("__class__")
    with pytest.raises(InvariantError):
        Table.of((rule,), (rule,))


def test_ids_follow_from_the_request() -> None:
    """Derived ids are the same for the same request and ordinal, and differ otherwise."""
    at = Moment(time=1, request="r", asker=Asker(id="o"))
    assert at.id(0, "n") == at.id(0, "n")
    assert at.id(0, "n") != at.id(1, "n")


def test_request_ids_are_uuid_7() -> None:
    """A fresh id parses and carries its time."""
    value = host.request_id(1_700_000_000_000_000)
    assert RequestId.parse(value).time_ms == 1_700_000_000_000
    assert host.request_id() != host.request_id()


def test_secrets_do_not_print() -> None:
    """A secret renders as <secret> everywhere but in reveal."""
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {secret:>20} {[secret]}" + str(secret)
    assert secret.reveal() == "hunter2"


def test_configuration_order(tmp_path: Path) -> None:
    """Flags win over the environment, the environment over defaults; nonsense is refused."""
    environment = {"HOME": str(tmp_path), "ENJIN_HOME": "/var/tmp/x", "ENJIN_PORT_BASE": "9000"}
    assert config.load({}, environment).port_base == 9000
    assert config.load({"port_base": 9100}, environment).port_base == 9100
    for flags in ({"port_base": 1}, {"port_base": "x"}, {"ring1": "vmx"}, {"bus": "carrier-pigeon"}):
        with pytest.raises(config.BadConfig):
            config.load(flags, environment)
    with pytest.raises(config.HomeTooLong):
        config.load({"home": "/" + "x" * 100}, environment)


def test_every_code_is_stable_and_explained() -> None:
    """Each code has its form and a meaning, and errors from replies keep their class."""
    import re

    for code, row in CODES.items():
        assert re.fullmatch(r"E-[A-Z]{3}-\d{3}|E-UP-\d{3}", code)
        assert row.meaning
    assert isinstance(from_reply("E-NAM-001", "x"), BadName)
    assert isinstance(from_reply("E-XXX-999", "x"), EnjinError)


def test_write_atomic_replaces_whole(tmp_path: Path) -> None:
    """A file is replaced in one step, and nothing else stays behind."""
    path = tmp_path / "file"
    host.write_atomic(path, b"one", 0o600)
    host.write_atomic(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert isinstance(msgspec.json.encode({}), bytes)


def test_a_command_logs_warnings_alone_and_not_into_its_answer() -> None:
    """Without a set-up standard output stays the answer's; what a daemon sets up is written whole, to standard error."""
    code = "from enjin import log; {}; one = log.get('x'); one.info('door.opened'); one.warning('door.stuck'); print('{{}}')"
    quiet, whole = (
        subprocess.run([sys.executable, "-c", code.format(set_up)], capture_output=True, text=True, check=True)
        for set_up in ("pass", "log.configure(ring=0)")
    )
    assert (quiet.stdout, whole.stdout) == ("{}\n", "{}\n")
    assert "door.stuck" in quiet.stderr
    assert "door.opened" not in quiet.stderr
    assert "door.stuck" in whole.stderr
    assert "door.opened" in whole.stderr
