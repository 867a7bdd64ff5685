"""Addresses: every pair is given once, nothing reserved or delegated is ever given, and a full network says so."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compartments import addressing
from compartments.facts.networks import AddressAssigned, AddressReleased, BlockDelegated
from compartments.rows import Network, NetworkInterface
from compartments.world import World

NETWORK = Network(id="net-1", name="lab", compartment="c", ipv4="10.9.0.0/28", ipv6="fd00:9::/64", reserved=2)


def give(world: World, pair: addressing.Pair, node: str = "n-1") -> None:
    """Make *pair* the node's."""
    AddressAssigned(network="net-1", offset=pair.offset, node=node, name=f"eth{pair.offset}", ipv4=pair.ipv4, ipv6=pair.ipv6, time=1).apply(
        world
    )


@given(st.lists(st.one_of(st.none(), st.integers(0, 15)), max_size=60))
@settings(max_examples=80, deadline=None)
def test_addresses_are_unique_whatever_is_released(steps: list) -> None:
    """Taking (None) and releasing (an offset) in any order: no two hold one address, none is reserved, the count is right."""
    world = World([NETWORK])
    for step in steps:
        network = world.need(Network, "net-1")
        if step is not None:
            AddressReleased(network="net-1", offset=step).apply(world)
            continue
        held = {row.offset for row in world.all(NetworkInterface)}
        try:
            pair = addressing.next_free(world, network)
        except addressing.OutOfRoom:
            assert set(range(2, 15)) == held
            continue
        assert 2 <= pair.offset < 15
        assert pair.offset not in held
        give(world, pair)
    rows = world.all(NetworkInterface)
    assert len(rows) == len({row.ipv4 for row in rows}) == len({row.ipv6 for row in rows}) == world.need(Network, "net-1").used


def test_pairs_lie_side_by_side() -> None:
    """The n-th IPv4 and the n-th IPv6 address belong together, and either finds the other."""
    pair = addressing.pair_at(NETWORK, 9)
    assert pair == (9, "10.9.0.9", "fd00:9::9")
    assert 9 == addressing.offset_of(NETWORK, "10.9.0.9") == addressing.offset_of(NETWORK, "fd00:9::9")


def test_a_released_address_rests_while_there_are_others() -> None:
    """The search goes on after the last address given, and comes round."""
    world = World([NETWORK])
    for _ in range(3):
        give(world, addressing.next_free(world, world.need(Network, "net-1")))
    AddressReleased(network="net-1", offset=2).apply(world)
    offsets = []
    for _ in range(11):
        pair = addressing.next_free(world, world.need(Network, "net-1"))
        offsets.append(pair.offset)
        give(world, pair)
    assert [*range(5, 15), 2] == offsets


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.9.0.0", "E-ADR-005"),
        ("10.9.0.1", "E-ADR-005"),
        ("10.9.0.15", "E-ADR-005"),
        ("fd00:9::1", "E-ADR-005"),
        ("10.9.0.9", "E-ADR-005"),
        ("10.9.0.16", "E-ADR-004"),
        ("10.8.255.255", "E-ADR-004"),
        ("fd00:9::10", "E-ADR-004"),
        ("::1", "E-ADR-004"),
        ("10.9.0.2", "E-ADR-003"),
        ("fd00:9::2", "E-ADR-003"),
        ("10.9.0.256", "E-ADR-006"),
        ("", "E-ADR-006"),
        ("10.9.0.2/32", "E-ADR-006"),
        ("10.9.0.02", "E-ADR-006"),
    ],
)
def test_addresses_that_cannot_be_claimed(address: str, code: str) -> None:
    """Reserved, delegated, taken, outside or malformed: each has its code; the valid twin passes."""
    world = World([NETWORK])
    give(world, addressing.pair_at(NETWORK, 2))
    BlockDelegated(network="net-1", domain="n-2", ipv4="10.9.0.8/30").apply(world)
    with pytest.raises(addressing.Refused) as refused:
        addressing.claim(world, world.need(Network, "net-1"), address)
    assert code == refused.value.code
    assert addressing.claim(world, world.need(Network, "net-1"), "fd00:9::3") == (3, "10.9.0.3", "fd00:9::3")


def test_nothing_delegated_is_given() -> None:
    """The search passes over blocks that were delegated, and a network of which nothing is left is full."""
    world = World([NETWORK])
    BlockDelegated(network="net-1", domain="n-2", ipv4="10.9.0.4/30").apply(world)
    BlockDelegated(network="net-1", domain="n-3", ipv4="10.9.0.8/29").apply(world)
    for offset in (2, 3):
        pair = addressing.next_free(world, world.need(Network, "net-1"))
        assert offset == pair.offset
        give(world, pair)
    with pytest.raises(addressing.OutOfRoom):
        addressing.next_free(world, world.need(Network, "net-1"))


@given(st.integers(0, 15), st.integers(28, 30))
@settings(max_examples=40, deadline=None)
def test_blocks_hold_the_same_pairs_on_both_sides(start: int, prefix: int) -> None:
    """The IPv6 range beside a block holds exactly the IPv6 halves of its pairs."""
    inner = ipaddress.ip_network((int(ipaddress.ip_address("10.9.0.0")) + start, prefix), strict=False)
    block = addressing.block_at(NETWORK, str(inner))
    first = addressing.offset_of(NETWORK, str(inner[0]))
    beside = ipaddress.ip_network(block.ipv6)
    assert [addressing.pair_at(NETWORK, first + number).ipv6 for number in range(inner.num_addresses)] == [str(one) for one in beside]


def test_one_shared_address_serves_loopback() -> None:
    """A network whose IPv6 range is a single address shares it, and nobody can claim it."""
    network = Network(id="net-1", name="loop", compartment="c", ipv4="127.64.0.0/16", ipv6="::1/128")
    world = World([network])
    assert (addressing.next_free(world, network).ipv6, addressing.block_at(network, "127.64.64.0/18").ipv6) == ("::1", "::1/128")
    with pytest.raises(addressing.OutsideNetwork):
        addressing.claim(world, network, "::1")


def test_local_range_follows_from_the_cloud() -> None:
    """The cloud's own IPv6 range is in fd00::/8, the same for one cloud and another for another."""
    first, second = addressing.local_range6("a" * 64), addressing.local_range6("b" * 64)
    assert (first, second) == ("fdaa:aaaa:aaaa::/64", "fdbb:bbbb:bbbb::/64")
    assert addressing.local_range6("a" * 64, 7) == "fdaa:aaaa:aaaa:7::/64"


def test_a_large_network_is_filled_fast_and_says_when_it_is_full() -> None:
    """Filling 4,093 addresses looks at each at most twice."""
    network = Network(id="net-1", name="wide", compartment="c", ipv4="10.0.0.0/20", ipv6="fd00::/64")
    world = World([network])
    for _ in range(4_093):
        give(world, addressing.next_free(world, world.need(Network, "net-1")))
    with pytest.raises(addressing.OutOfRoom) as refused:
        addressing.next_free(world, world.need(Network, "net-1"))
    assert refused.value.code == "E-ADR-002"
