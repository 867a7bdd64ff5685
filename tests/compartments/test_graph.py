"""The graph: never a cycle, homes apart from containment, and what fails with what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compartments import graph, impact, lookup, placement, promotion
from compartments.rows import Compartment, Containment, Counter, Network, Node, NodeTier, Tier
from compartments.world import World


def cloud() -> World:
    """A cloud with two sites, a rack in each, one power feed under both racks, ring 0 in each rack and ring 1 on it."""
    rows: list[Any] = [
        Compartment(id="c-cloud", name="cloud", kind="cloud"),
        Compartment(id="c-site1", name="site1", kind="site", parent="c-cloud"),
        Compartment(id="c-site2", name="site2", kind="site", parent="c-cloud"),
        Compartment(id="c-rack1", name="rack1", kind="rack", parent="c-site1"),
        Compartment(id="c-rack2", name="rack2", kind="rack", parent="c-site2"),
        Compartment(id="c-feed", name="feed", kind="power", parent="c-cloud"),
        Compartment(id="c-tenant", name="tenant", kind="environment", parent="c-cloud"),
        Containment(parent="c-feed", child="c-rack1"),
        Network(id="net-1", name="fabric", compartment="c-rack1", ipv4="10.0.0.0/24"),
        Tier(id="t-queen", name="queen", single=True),
        Tier(id="t-pawn", name="pawn", above="t-queen"),
    ]
    for number in "12":
        rows.append(
            Node(id=f"n-meta{number}", ring=0, label=f"meta{number}", compartment=f"c-rack{number}", strategy="host", state="running")
        )
        rows.append(
            Node(
                id=f"n-ring{number}",
                ring=1,
                label=f"ring{number}",
                compartment=f"c-rack{number}",
                strategy="jail",
                supervisor=f"n-meta{number}",
                state="running",
            )
        )
    rows += [NodeTier(node="n-ring1", tier="t-queen", group="db"), NodeTier(node="n-ring2", tier="t-pawn", group="db")]
    return World(rows)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40))
@settings(max_examples=80, deadline=None)
def test_no_cycle_can_be_made(edges: list) -> None:
    """Whatever edges are asked for: those that pass make no compartment its own ancestor."""
    world = World([Compartment(id=f"c{number}", name=f"c{number}", kind="rack") for number in range(8)])
    for parent, child in edges:
        try:
            graph.check_edge(world, f"c{parent}", f"c{child}")
        except (graph.WouldCycle, graph.AlreadyThere):
            continue
        world.put(Containment(parent=f"c{parent}", child=f"c{child}"))
    for number in range(8):
        above, below = graph.ancestors(world, f"c{number}"), graph.descendants(world, f"c{number}")
        assert f"c{number}" not in above
        assert f"c{number}" not in below
        assert not set(above) & set(below)
        assert all(f"c{number}" in graph.descendants(world, one) for one in above)


def test_homes_and_containments_are_apart() -> None:
    """Containment is seen by ancestors and impact; authority follows homes alone."""
    world = cloud()
    assert graph.parents(world, "c-rack1") == ["c-site1", "c-feed"]
    assert graph.ancestors(world, "n-ring1") == ["c-cloud", "c-feed", "c-rack1", "c-site1"]
    assert graph.path_text(world, "n-ring1") == "cloud/site1/rack1"
    assert (graph.within(world, "n-ring1", "c-site1"), graph.within(world, "n-ring1", "c-feed")) == (True, False)
    assert getattr(graph.at_path(world, "cloud/site1/rack1"), "id", None) == "c-rack1"
    assert (graph.at_path(world, "site1/rack1"), graph.at_path(world, "cloud/feed/rack1")) == (None, None)


@pytest.mark.parametrize("text", ["c-rack1", "rack1", "cloud/site1/rack1"])
def test_a_compartment_is_located_by_id_name_and_path(text: str) -> None:
    """Id, name and path give one path; what is unknown stays as it is, and so covers nothing."""
    assert graph.locate(cloud(), text) == "cloud/site1/rack1"
    assert graph.locate(cloud(), "nowhere") == "nowhere"


def test_impact_follows_containment_and_supervision() -> None:
    """A failing feed takes its rack, the rack's nodes and what they run; a tier without members left is dark."""
    found = impact.impact(cloud(), "c-feed")
    assert (found["compartments"], found["nodes"], found["networks"]) == (["c-feed", "c-rack1"], ["n-meta1", "n-ring1"], ["net-1"])
    tier = {"tier": "t-queen", "name": "queen", "group": "db", "members": 1, "failing": 1, "left": 0, "dark": True}
    assert [tier] == found["tiers"]
    assert impact.impact(cloud(), "n-meta2")["nodes"] == ["n-meta2", "n-ring2"]


def test_roll_up_counts_what_lies_within() -> None:
    """A roll-up counts each thing once, however many ways lead to it."""
    total = impact.roll_up(cloud(), "c-cloud")
    assert (total["nodes"], total["rings"], total["states"]) == (4, {"0": 2, "1": 2}, {"running": 4})
    assert total["compartments"] == {"environment": 1, "power": 1, "rack": 2, "site": 2}
    assert impact.roll_up(cloud(), "c-feed")["nodes"] == 2


def test_drawings_hold_every_point_once() -> None:
    """JSON and DOT show every point once and only edges between shown points, in one order."""
    world = cloud()
    drawn = impact.to_json(world)
    assert 11 == len(drawn["nodes"]) == len({point["id"] for point in drawn["nodes"]})
    part = impact.to_json(world, "c-site1")
    inside = {point["id"] for point in part["nodes"]}
    assert {"c-site1", "c-rack1", "n-meta1", "n-ring1"} == inside
    assert all({edge["from"], edge["to"]} <= inside for edge in part["edges"])
    assert impact.to_dot(world) == impact.to_dot(World.restore(world.snapshot()))
    world.put(Compartment(id="c-odd", name='a"\\b\nc', kind="rack", parent="c-cloud"))
    assert '"c-odd" [shape=folder, label="a\\"\\\\b\\nc\\nrack"];' in impact.to_dot(world)


def test_placement_spreads_and_explains() -> None:
    """A further member of a tier goes where none is; every candidate has a verdict."""
    world = cloud()
    placed = placement.place(world, placement.Need(ring=1, tier="t-queen", group="db"))
    assert (placed.supervisor, placed.compartment) == ("n-meta2", "c-rack2")
    assert len(placed.verdicts) == 4
    assert [verdict.kept for verdict in placed.verdicts] == [True, True, False, False]
    within = placement.place(world, placement.Need(ring=1, compartment="c-feed"))
    assert (within.supervisor, within.compartment) == ("n-meta1", "c-feed")
    with pytest.raises(placement.NowhereToGo) as refused:
        placement.place(world, placement.Need(ring=3))
    assert {"n-meta1", "n-meta2", "n-ring1", "n-ring2"} == set(refused.value.details["reasons"])


def test_promotion_swaps_in_one_fact() -> None:
    """A planned switch-over swaps both nodes and raises the fence; without it a running holder stays."""
    world = cloud()
    pawn, node = world.need(Tier, "t-pawn"), world.need(Node, "n-ring2")
    with pytest.raises(promotion.StillServing):
        promotion.promote(world, node, pawn)
    fact = promotion.promote(world, node, pawn, switch=True)
    assert (fact.demoted, fact.epoch) == (("n-ring1",), 1)
    fact.apply(world)
    assert [(row.node, row.tier) for row in world.find(NodeTier, tier="t-queen")] == [("n-ring2", "t-queen")]
    assert [row.node for row in world.find(NodeTier, tier="t-pawn")] == ["n-ring1"]
    again = promotion.promote(world, world.need(Node, "n-ring1"), pawn, switch=True)
    assert again.epoch == 2
    assert world.need(Counter, "epoch/t-queen/db").value == 1


def test_promotion_takes_the_place_of_a_dead_holder() -> None:
    """Where the holder failed, no switch-over is needed; a node that does not run is not promoted."""
    world = cloud()
    world.put(Node(id="n-ring1", ring=1, label="ring1", compartment="c-rack1", strategy="jail", state="failed"))
    pawn = world.need(Tier, "t-pawn")
    assert promotion.promote(world, world.need(Node, "n-ring2"), pawn).demoted == ("n-ring1",)
    with pytest.raises(promotion.NotPromotable):
        promotion.promote(world, world.need(Node, "n-ring1"), pawn)
    with pytest.raises(promotion.NotPromotable):
        promotion.promote(world, world.need(Node, "n-meta1"), pawn)


def test_lookup_by_id_name_and_beginning() -> None:
    """An id, a name and the beginning of an id find a row; near names are suggested; several are ambiguous."""
    world = cloud()
    assert "c-rack1" == lookup.compartment(world, "c-rack1").id == lookup.compartment(world, "rack1").id
    assert lookup.compartment(world, "c-te").id == "c-tenant"
    with pytest.raises(lookup.Ambiguous):
        lookup.compartment(world, "c-rack")
    with pytest.raises(lookup.NoSuchCompartment) as refused:
        lookup.compartment(world, "rak1")
    assert (refused.value.code, "rack1" in refused.value.hint) == ("E-CMP-001", True)
    with pytest.raises(lookup.NameTaken):
        lookup.fresh_name(world, Compartment, "n-0123456789abcdef")
