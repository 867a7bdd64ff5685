"""A node's link to the fabric: its names, its making and mending, and what of it is missing.

Owns the derivation of names; the work itself is done by hands' worker. May import: enjin, supervision.{steps,workshop}.
"""

from __future__ import annotations

import contextlib
from typing import Any

from supervision.steps import NetworkFailed, NodeFailed, NodeSpec
from supervision.workshop import Workshop


def fabric(shop: Workshop) -> str:
    """Return the name of the namespace that holds the fabric: our own ("") inside a jail, else the cloud's."""
    return "" if shop.own_network else f"enjin-{shop.config.tag}"


def port(shop: Workshop, spec: NodeSpec) -> str:
    """Return the name of the fabric's end of the node's link."""
    if spec.interface is not None and spec.interface.port:
        return spec.interface.port
    digits = spec.node.rpartition("-")[2]
    return f"p{digits[:14]}" if shop.own_network else f"enj{shop.config.tag}{digits[:6]}"


def _arguments(shop: Workshop, spec: NodeSpec, inside: str) -> dict[str, Any]:
    interface = spec.interface
    if interface is None:
        raise NodeFailed(f"{spec.node} has no interface")
    return {
        "netns": fabric(shop), "inside": inside, "bridge": interface.bridge, "port": port(shop, spec), "name": interface.name,
        "addresses": interface.addresses, "gateway": interface.gateway,
    }  # fmt: skip


async def attach(shop: Workshop, spec: NodeSpec, inside: str) -> list[str]:
    """Make or mend the node's link; return what had to be made."""
    isolated = spec.interface is not None and spec.interface.isolated
    made: list[str] = await shop.worker.call("link.attach", **_arguments(shop, spec, inside), isolated=isolated)
    return made


async def missing(shop: Workshop, spec: NodeSpec, inside: str) -> list[str]:
    """Return which of link, address and route are not as planned."""
    lost: list[str] = await shop.worker.call("link.missing", **_arguments(shop, spec, inside))
    return lost


async def detach(shop: Workshop, spec: NodeSpec) -> None:
    """Remove the node's link, if there is one."""
    if spec.interface is not None:
        with contextlib.suppress(NetworkFailed):
            await shop.worker.call("link.detach", netns=fabric(shop), port=port(shop, spec))
