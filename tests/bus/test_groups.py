"""A group has one spelling and is never taken for somebody's id; who is in it, only the receiver knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.groups import EVERYBODY, BadGroup, group, groups_of, is_group
from enjin.names import NAME_PATTERN, NodeId


@given(st.from_regex(NodeId.PATTERN, fullmatch=True), st.sampled_from([0, 1, 2]), st.lists(st.from_regex(NAME_PATTERN, fullmatch=True)))
def test_every_group_of_a_node_is_a_group(node: str, ring: int, compartments: list[str]) -> None:
    """And none of them is called like a node or a domain."""
    found = groups_of(node, ring, compartments=compartments, tiers=compartments)
    assert {EVERYBODY, group("node", node), group("ring", ring)} <= found
    assert all(is_group(one) for one in found)
    assert not is_group(node)
    assert len(found) == 3 + 2 * len(set(compartments))


BAD = ("", "all", "group", "group/", "group/ring/3", "group/ring/01", "group/all/x", "group/all\n", "group/node/", "group/node/A",
       "group/node/a/b", "group/node/-a", "group/role/x",
       "Group/all", "group/node/" + "a" * 65, "group/tier/ä", "group/compartment/a b")  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_second_spellings_are_no_groups(name: str) -> None:
    """Neither taken as an audience nor made."""
    assert not is_group(name)
    kind, _, identity = name.removeprefix("group/").partition("/")
    with pytest.raises(BadGroup):
        group(kind, identity)
