"""The SQL projection: written as changes come or all at once it holds the world, and made anew it holds the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, select, text, update

from compartments import shapes, tables
from compartments.rows import Compartment, Containment, NetworkInterface, NodeObservation, Tier
from compartments.rows_apps import App, Health, Limits
from compartments.world import World
from tests.compartments.test_world import ROWS


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A database in memory with the empty projection, inside a transaction."""
    engine = create_engine("sqlite://")
    with engine.begin() as opened:
        assert tables.create(opened)
        tables.clear(opened)
        yield opened
    engine.dispose()


@given(st.lists(st.tuples(st.booleans(), ROWS), max_size=40), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_writing_changes_as_they_come_gives_the_world(steps: list, every: int) -> None:
    """Whatever was put and deleted, in commits of any size: the tables' digest is the world's."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        tables.create(connection)
        tables.clear(connection)
        world = World()
        for number, (keep, row) in enumerate(steps):
            if keep:
                world.put(row)
            else:
                world.delete(type(row), *(getattr(row, field) for field in row.KEY))
            if number % every == 0:
                tables.write(connection, world.take_changes())
        tables.write(connection, world.take_changes())
        assert world.digest() == tables.digest(connection)
    engine.dispose()


def test_dropped_tables_are_made_anew_with_the_same_rows(connection: Connection) -> None:
    """Dropping the projection and writing a replayed world into it gives the same tables."""
    world = World([Compartment(id="c", name="cloud", kind="cloud"), Tier(id="t", name="web"), Containment(parent="c", child="d")])
    tables.write(connection, World.restore(world.snapshot()).take_changes() or world.take_changes())
    before = tables.digest(connection)
    tables.drop(connection)
    assert tables.create(connection)
    tables.clear(connection)
    again = World(world.all(Compartment) + world.all(Tier) + world.all(Containment))  # type: ignore[operator]
    tables.write(connection, again.take_changes())
    assert before == tables.digest(connection) == world.digest()


@pytest.mark.parametrize("damage", ["DROP TABLE tier", "UPDATE projection_shape SET fingerprint='other'", "DROP TABLE projection_shape"])
def test_tables_of_another_shape_never_pass_for_a_world(connection: Connection, damage: str) -> None:
    """A missing table or another fingerprint: everything is made anew, and nothing is loaded before it was filled."""
    world = World([Tier(id="t", name="web")])
    tables.write(connection, world.take_changes())
    connection.execute(text(damage))
    assert tables.create(connection)
    with pytest.raises(tables.StaleTables):
        tables.load(connection)
    tables.clear(connection)
    assert World().digest() == tables.digest(connection)


def test_tables_that_are_right_are_left_alone(connection: Connection) -> None:
    """Creating a second time keeps the rows."""
    world = World([Tier(id="t", name="web")])
    tables.write(connection, world.take_changes())
    assert not tables.create(connection)
    assert world.digest() == tables.digest(connection)


def test_a_row_edited_by_hand_shows_in_the_digest(connection: Connection) -> None:
    """The digest is taken from the rows as they are."""
    world = World([Tier(id="t", name="web")])
    tables.write(connection, world.take_changes())
    table = tables.METADATA.tables["tier"]
    connection.execute(update(table).values(name="evil"))
    assert world.digest() != tables.digest(connection)


def test_every_field_survives(connection: Connection) -> None:
    """Text with any character, large numbers, truth values, maps and nested structs come back as they went in."""
    rows = [
        Tier(id="t", name="quote ' \" \\ ünï \u2028", single=True, created=2**62),
        NodeObservation(node="n", generation=2**40, state="running", time=0, isolation={"pid": "4026531836", "b": "ü"}),
        NetworkInterface(network="n", offset=7, node="n", name="eth0", ipv4="10.0.0.7", ipv6="fd00::7"),
        App(
            name="shop",
            compartment="c",
            strategy="jail",
            limits=Limits(memory_bytes=1 << 40, processes=2, cpu_millicores=3, files=4),
            health=Health(path="/ü", ready_ms=1, drain_ms=2),
            scale={"web": 3},
        ),
    ]
    world = World(rows)
    tables.write(connection, world.take_changes())
    loaded = tables.load(connection)
    assert [rows[0], rows[1], rows[2], rows[3]] == [
        *loaded.all(Tier), *loaded.all(NodeObservation), *loaded.all(NetworkInterface), *loaded.all(App)
    ]  # fmt: skip


def test_every_row_type_has_a_table_with_its_key(connection: Connection) -> None:
    """The tables are those of the row types, keyed as they are; each can be read."""
    for name, shape in shapes.ROW_TYPES.items():
        table = tables.METADATA.tables[name]
        assert set(shape.KEY) == {column.name for column in table.primary_key}
        assert connection.execute(select(table)).all() == []


def test_indexes_of_earlier_versions_are_dropped_and_rows_stay(connection: Connection) -> None:
    """Tables that an earlier version made with indexes go on without them: only keys are looked up."""
    tables.write(connection, World([Tier(id="t", name="web"), Containment(parent="c", child="d")]).take_changes())
    before = tables.digest(connection)
    connection.exec_driver_sql("CREATE INDEX containment_by_child ON containment (child)")
    assert not tables.create(connection)
    assert connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").all() == []
    assert tables.digest(connection) == before
