"""Instances: what was seen of them, what is stale, when they are forgotten, who may list them."""

from __future__ import annotations

import pytest

from compartments.rows import Node
from compartments.rows_apps import Instance
from enjin.names import Name, NodeId
from ring1 import instances, processes
from ring1.tenancy import UnknownApp
from tests.ring1.domain import BLUE_TENANT, DAEMON, TENANT, Domain, refuse

HELLO = Name("hello")
UNKNOWN = NodeId("i-00000000000000ff")


def test_another_generations_sight_changes_nothing() -> None:
    """INV-INS-1: what was seen of an older generation, or of nobody, is refused as stale."""
    domain = Domain()
    domain.deployed("hello")
    one = domain.instances("hello")[0]
    for instance, generation in ((NodeId(one.id), 2), (UNKNOWN, 1)):
        wish = instances.SawInstance(instance=instance, generation=generation, state="failed")
        refuse(domain, wish, instances.StaleInstance, DAEMON)


def test_a_wanted_instance_is_not_forgotten() -> None:
    """INV-INS-2: only what was to go can be gone."""
    domain = Domain()
    domain.deployed("hello")
    one = domain.instances("hello")[0]
    refuse(domain, instances.Drained(instance=NodeId(one.id)), instances.InstanceServes, DAEMON)
    refuse(domain, instances.Drained(instance=UNKNOWN), instances.StaleInstance, DAEMON)


def test_a_node_follows_its_instance() -> None:
    """The graph shows an instance's node in a word of its own table."""
    domain = Domain()
    domain.deployed("hello")
    one = domain.instances("hello")[0]
    for state, shown in (("unhealthy", "running"), ("exited", "starting"), ("failed", "failed"), ("ready", "running")):
        domain.saw(one, state)
        assert domain.world.need(Node, one.id).state == shown


def test_an_unready_instance_that_was_ready_stays_known_as_such() -> None:
    """``ready`` is the first time and does not move."""
    domain = Domain()
    domain.deployed("hello")
    one = domain.instances("hello")[0]
    first = one.ready
    domain.saw(one, "exited")
    domain.saw(one, "ready")
    assert domain.world.need(Instance, one.id).ready == first > 0


def test_listing_is_bounded_by_the_compartment() -> None:
    """An app's instances, or all that the asker may see."""
    domain = Domain()
    domain.deployed("hello", TENANT)
    domain.deployed("world", BLUE_TENANT, compartment="blue")
    domain.do(processes.Scale(app=HELLO, processes={"web": 2}), TENANT)
    assert [(row["app"], row["index"]) for row in domain.ask(instances.ListInstances(), TENANT)] == [("hello", 1), ("hello", 2)]
    assert [row["app"] for row in domain.ask(instances.ListInstances())] == ["hello", "hello", "world"]
    with pytest.raises(UnknownApp):
        domain.ask(instances.ListInstances(app="hello"), BLUE_TENANT)
