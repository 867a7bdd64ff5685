"""The closed table of ring 0: complete, permitted, described, and light to import."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from bus.messages import Role, Rule, Table, canonical, parse
from compartments.facts import FACTS
from enjin.errors import CODES
from ring0.services import SERVICES
from tests.ring0.wishes import examples

TABLE = Table.of(*SERVICES)
SUPERVISOR = {
    "key.enroll", "cloud.found", "node.seen", "charter.issue", "key.join", "compartment.condemn", "compartment.keep", "compartment.forget",
}  # fmt: skip


def test_permissions_stand_beside_the_functions() -> None:
    """What only the daemon may wish for is for nobody else; what tenants may ask for names the compartment it touches."""
    assert {rule.command.KIND for rule in TABLE.rules() if rule.allow is Role.SUPERVISOR} == SUPERVISOR
    for row in (*TABLE.rules(), *TABLE.questions()):
        assert row.allow >= Role.TENANT
        if row.allow is Role.TENANT:
            assert row.compartment is not None


def test_every_row_says_what_it_does() -> None:
    """The first line of every command and query is a sentence for `--help` and the API."""
    for row in (*TABLE.rules(), *TABLE.questions()):
        shape = row.command if isinstance(row, Rule) else row.query
        assert shape.__doc__
        assert row.summary.endswith(".")
        assert shape.KIND.count(".") == 1
        assert row.summary[0].isupper()


def test_wishes_have_one_spelling() -> None:
    """Every sample survives its own bytes; a field too many is refused."""
    for _, wish, _ in examples():
        data = canonical(wish)
        assert parse(data, type(wish)) == wish
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(data[:-1] + (b',"zzz":1}' if data != b"{}" else b'"zzz":1}'), type=type(wish))


def test_the_place_that_a_wish_touches_never_raises() -> None:
    """The permission check finds a compartment, or "" for what is not there: the decision then says what is wrong."""
    for world, wish, _ in examples():
        where = TABLE.rule(wish.KIND).compartment
        if where is None:
            continue
        for word in ("", "nothing-like-it", "cloud", "ring1"):
            fields = {field: word for field in wish.__struct_fields__ if field in ("node", "compartment", "parent", "account", "token")}
            assert isinstance(where(msgspec.structs.replace(wish, **fields), world), str)


def test_kinds_and_codes_are_unique() -> None:
    """A fact's kind is one of its table; every code has a meaning."""
    assert all(kind == shape.KIND for kind, shape in FACTS.items())
    for code in ("E-CMP-001", "E-ADR-002", "E-NOD-003", "E-KEY-003", "E-ACC-004", "E-CHA-002", "E-TIR-002", "E-GEN-001", "E-LKP-002"):
        assert CODES[code].meaning


def test_the_table_is_light_to_import() -> None:
    """Commands can be listed without a database, a socket library, cryptography or a web server."""
    program = (
        "import sys, ring0.services; "
        "print([name for name in ('sqlalchemy', 'zmq', 'nacl', 'starlette', 'uvicorn', 'pyroute2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
