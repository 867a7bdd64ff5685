"""`enjin compartment`, `tier`, `network`, `address`, `graph`: the cloud's world, as ring 0 knows it."""

from __future__ import annotations

from typing import Any

import click

from enjin.output import json_option, print_json, reason_option
from ring0.commands.client import ask, at_option, done, show_one, show_rows, want
from ring0.commands.destroying import destroy
from ring0.commands.shredding import new_key, secrets, shred

KINDS = ("site", "rack", "power", "network", "environment")


@click.group("compartment")
def compartment() -> None:
    """Localities and groupings: sites, racks, power feeds, networks, tenants' environments.

    \b
    Examples:
      enjin compartment create tenant-a --reason "a new customer"
      enjin compartment list --at 2h
    """


compartment.add_command(destroy)
compartment.add_command(shred)
compartment.add_command(new_key)
compartment.add_command(secrets)


@compartment.command("create")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), default="environment", show_default=True, help="What it is.")
@click.option("--parent", default="", metavar="NAME", help="Its home (default: the cloud itself).")
@click.option("--summary", default="", metavar="TEXT", help="One line about it.")
@reason_option
@json_option
def create_compartment(name: str, kind: Any, parent: str, summary: str, reason: str, as_json: bool) -> None:
    """Make compartment NAME."""
    from ring0.compartments import CreateCompartment

    made = want(CreateCompartment(name=name, kind=kind, parent=parent, summary=summary), reason)
    done(made, as_json, f"made {made['kind']} {made['path']} ({made['id']})")


@compartment.command("list")
@click.option("--in", "inside", default="", metavar="NAME", help="Only what lies in this one.")
@at_option
@json_option
def list_compartments(inside: str, at: str, as_json: bool) -> None:
    """List the compartments."""
    from ring0.compartments import ListCompartments

    rows = ask(ListCompartments(compartment=inside, at=at))
    show_rows(rows, {"path": "PATH", "kind": "KIND", "state": "STATE", "created": "AGE", "summary": "SUMMARY", "id": "ID"}, as_json)


@compartment.command("show")
@click.argument("name")
@at_option
@json_option
def show_compartment(name: str, at: str, as_json: bool) -> None:
    """Show compartment NAME: where it lies, what lies in it, and the sum of it."""
    from ring0.compartments import ShowCompartment

    show_one(ask(ShowCompartment(compartment=name, at=at)), as_json)


@click.group("tier")
def tier() -> None:
    """Roles of nodes: primary, replica, web, router, and those that you make.

    \b
    Examples:
      enjin tier create database --single
      enjin tier assign database ring1 --group main
    """


@tier.command("create")
@click.argument("name")
@click.option("--summary", default="", metavar="TEXT", help="One line about it.")
@click.option("--above", default="", metavar="TIER", help="The tier to which its members can be promoted.")
@click.option("--single", is_flag=True, help="At most one member per group.")
@reason_option
@json_option
def create_tier(name: str, summary: str, above: str, single: bool, reason: str, as_json: bool) -> None:
    """Make tier NAME."""
    from ring0.tiers import CreateTier

    made = want(CreateTier(name=name, summary=summary, above=above, single=single), reason)
    done(made, as_json, f"made tier {made['name']} ({made['id']})")


@tier.command("list")
@at_option
@json_option
def list_tiers(at: str, as_json: bool) -> None:
    """List the tiers."""
    from ring0.tiers import ListTiers

    columns = {"name": "TIER", "members": "MEMBERS", "above": "ABOVE", "single": "SINGLE", "created": "AGE", "summary": "SUMMARY"}
    show_rows(ask(ListTiers(at=at)), columns, as_json)


@tier.command("show")
@click.argument("name")
@at_option
@json_option
def show_tier(name: str, at: str, as_json: bool) -> None:
    """Show tier NAME and its members."""
    from ring0.tiers import ShowTier

    show_one(ask(ShowTier(tier=name, at=at)), as_json)


@tier.command("assign")
@click.argument("name", metavar="TIER")
@click.argument("node")
@click.option("--group", default="", metavar="TEXT", help="The group of replicas.")
@reason_option
@json_option
def assign_tier(name: str, node: str, group: str, reason: str, as_json: bool) -> None:
    """Let NODE play TIER."""
    from ring0.tiers import AssignTier

    done(want(AssignTier(tier=name, node=node, group=group), reason), as_json, f"{node} plays {name}")


@tier.command("unassign")
@click.argument("name", metavar="TIER")
@click.argument("node")
@reason_option
@json_option
def unassign_tier(name: str, node: str, reason: str, as_json: bool) -> None:
    """Let NODE no longer play TIER."""
    from ring0.tiers import UnassignTier

    done(want(UnassignTier(tier=name, node=node), reason), as_json, f"{node} plays {name} no longer")


@click.group("network")
def network() -> None:
    """Ranges of addresses.

    \b
    Examples:
      enjin network create lab --ipv4 10.99.0.0/24
      enjin network list
    """


@network.command("create")
@click.argument("name")
@click.option("--ipv4", required=True, metavar="RANGE", help="Such as 10.99.0.0/24.")
@click.option("--ipv6", default="", metavar="RANGE", help="A range, or none (default: the next free /64 of the cloud's own).")
@click.option("--compartment", "place", default="", metavar="NAME", help="Where it lies (default: the cloud itself).")
@click.option("--reserved", type=int, default=2, show_default=True, help="How many addresses from the start are never given away.")
@reason_option
@json_option
def create_network(name: str, ipv4: str, ipv6: str, place: str, reserved: int, reason: str, as_json: bool) -> None:
    """Make network NAME."""
    from ring0.addresses import CreateNetwork

    made = want(CreateNetwork(name=name, ipv4=ipv4, ipv6=ipv6, compartment=place, reserved=reserved), reason)
    done(made, as_json, f"made network {made['name']} {made['ipv4']} {made['ipv6']}".rstrip())


@network.command("list")
@at_option
@json_option
def list_networks(at: str, as_json: bool) -> None:
    """List the networks and how full they are."""
    from ring0.addresses import ListNetworks

    columns = {"name": "NETWORK", "ipv4": "IPV4", "ipv6": "IPV6", "gateway4": "GATEWAY", "used": "USED", "free": "FREE"}
    show_rows(ask(ListNetworks(at=at)), columns, as_json)


@click.group("address")
def address() -> None:
    """Who has which address.

    \b
    Examples:
      enjin address assign fabric ring1
      enjin address list --network fabric
    """


@address.command("assign")
@click.argument("network_name", metavar="NETWORK")
@click.argument("node")
@click.option("--address", "text", default="", metavar="ADDRESS", help="This one (default: the next free one).")
@click.option("--interface", default="", metavar="NAME", help="The interface that gets it (default: the next eth).")
@reason_option
@json_option
def assign_address(network_name: str, node: str, text: str, interface: str, reason: str, as_json: bool) -> None:
    """Give NODE an address in NETWORK; its next start configures it."""
    from ring0.addresses import AssignAddress

    made = want(AssignAddress(network=network_name, node=node, address=text, interface=interface), reason)
    done(made, as_json, f"{made['label']} has {made['ipv4']} {made['ipv6']}".rstrip() + f" on {made['interface']}")


@address.command("release")
@click.argument("text", metavar="ADDRESS")
@reason_option
@json_option
def release_address(text: str, reason: str, as_json: bool) -> None:
    """Take ADDRESS, and the one beside it, back."""
    from ring0.addresses import ReleaseAddress

    done(want(ReleaseAddress(address=text), reason), as_json, f"{text} is free")


@address.command("list")
@click.option("--network", "network_name", default="", metavar="NAME", help="Only of this network.")
@click.option("--node", default="", metavar="NODE", help="Only of this node.")
@at_option
@json_option
def list_addresses(network_name: str, node: str, at: str, as_json: bool) -> None:
    """List the addresses that are given out."""
    from ring0.addresses import ListAddresses

    columns = {"network": "NETWORK", "ipv4": "IPV4", "ipv6": "IPV6", "label": "NODE", "interface": "INTERFACE", "since": "FOR"}
    show_rows(ask(ListAddresses(network=network_name, node=node, at=at)), columns, as_json)


@click.command("graph")
@click.option("--in", "inside", default="", metavar="NAME", help="Only what lies in this compartment.")
@click.option("--dot", is_flag=True, help="Print a drawing for Graphviz.")
@at_option
@json_option
def graph(inside: str, dot: bool, at: str, as_json: bool) -> None:
    """Show the graph of compartments and nodes, now or at a time.

    \b
    Examples:
      enjin graph --at 2h
      enjin graph --dot | dot -Tsvg > cloud.svg
    """
    from ring0.graph import ShowGraph

    if dot and as_json:
        raise click.UsageError("--dot and --json exclude each other")
    found = ask(ShowGraph(compartment=inside, format="dot" if dot else "json", at=at))
    if dot:
        click.echo(found.rstrip("\n"))
    elif as_json:
        print_json({"schema": 1} | found)
    else:
        for line in tree(found):
            click.echo(line)


def tree(found: dict[str, Any]) -> list[str]:
    """Return the graph as an indented list: what lies in several compartments stands beneath each."""
    points = {point["id"]: point for point in found["nodes"]}
    beneath: dict[str, list[str]] = {}
    for edge in (one for one in found["edges"] if one["type"] != "supervises"):
        beneath.setdefault(edge["from"], []).append(edge["to"])
    inner = {child for children in beneath.values() for child in children}
    lines: list[str] = []

    def walk(identity: str, depth: int) -> None:
        point = points[identity]
        words = [str(point.get(key, "")) for key in ("label", "kind", "strategy", "state")]
        lines.append("  " * depth + " ".join(word for word in words if word))
        for child in sorted(beneath.get(identity, ()), key=lambda one: str(points[one].get("label", one)) if one in points else one):
            if child in points and depth < len(points):
                walk(child, depth + 1)

    for identity in sorted(points):
        if identity not in inner:
            walk(identity, 0)
    return lines
