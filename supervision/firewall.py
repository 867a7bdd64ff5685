"""Access rules: from a plan to one atomic transaction in tables of our own.

Owns the text of the rules and its application through ``nft``; runs inside hands' worker where it acts. The protocol has room for a
second implementation by iptables; both on one namespace would filter twice, so a machine has one.

Two tables: ``enjin`` is what hands keeps in the namespace of its own fabric; ``enjin_outer`` is what the ring above puts into the namespace
of a jail that has a way out. Neither touches anything that is not its own.

INV-FWL-1: a replacement is one transaction: the old rules or the new ones, never neither.
INV-FWL-2: nothing from a plan is text of a rule unless it was parsed as an address, a number or a link name before.

May import: supervision.{kernel,network,steps}.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from enjin.failpoints import failpoint
from supervision.steps import Rule

TABLE: Final = "enjin"
OUTER: Final = "enjin_outer"
WAY: Final = "tap0"
CHAINS: Final = ("input", "forward", "output")
CLOSED: Final = ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10", "10.0.2.2/32")
NFT_DEADLINE_S: Final = 5.0


class Firewall(Protocol):
    """Something that can replace all rules of one of our tables in a network namespace."""

    def replace(self, inside: str, text: str) -> None: ...


def closed_set(networks: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return *networks* and what is always closed, by family, overlaps merged."""
    parsed = [ipaddress.ip_network(text, strict=False) for text in (*CLOSED, *networks)]
    four = ipaddress.collapse_addresses(n for n in parsed if isinstance(n, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(n for n in parsed if isinstance(n, ipaddress.IPv6Network))
    return [str(n) for n in four], [str(n) for n in six]


def fabric_text(bridge: str, rules: Iterable[Rule], ways_out: dict[int, list[str]]) -> str:
    """Return the table for a fabric: nodes reach nothing of the host side unless a rule lets them.

    Args:
        bridge: The fabric's bridge.
        rules: Access rules, first match wins, before the defaults.
        ways_out: uid of a node's way out -> networks that it must not reach.
    """
    asked = [(rule.chain, _rule(rule)) for rule in rules]
    # Tracking connections costs every packet; without rules of a plan it is enough that a node can begin no connection.
    known = "ct state established,related accept" if asked else f'iifname "{bridge}" tcp flags & (syn | ack) != syn accept'
    lines: dict[str, list[str]] = {chain: [known] if asked or chain == "input" else [] for chain in CHAINS}
    lines["input"].insert(0, 'iifname "lo" accept')
    for uid, networks in sorted(ways_out.items()):
        four, six = closed_set(networks)
        lines["output"][:0] = [
            f"meta skuid {int(uid)} ip daddr {{ {', '.join(four)} }} drop",
            f"meta skuid {int(uid)} ip6 daddr {{ {', '.join(six)} }} drop",
        ]
    for chain, text in asked:
        lines[chain].append(text)
    lines["input"] += [
        f'iifname "{bridge}" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept',
        f'iifname "{bridge}" drop',
    ]
    lines["forward"] += [f'iifname "{bridge}" drop', f'oifname "{bridge}" drop']
    return _table(TABLE, lines, 0)


def outer_text(networks: Iterable[str]) -> str:
    """Return the table that keeps a whole jail's way out away from *networks*."""
    four, six = closed_set(networks)
    guard = f'oifname "{WAY}"'
    lines = {"output": [f"{guard} ip daddr {{ {', '.join(four)} }} drop", f"{guard} ip6 daddr {{ {', '.join(six)} }} drop"]}
    lines["forward"] = list(lines["output"])
    return _table(OUTER, lines, -10)


def _rule(rule: Rule) -> str:
    parts = []
    if rule.link:
        parts.append(f'{"oifname" if rule.chain == "output" else "iifname"} "{rule.link}"')
    if rule.uid >= 0:
        parts.append(f"meta skuid {int(rule.uid)}")
    for word, text in (("saddr", rule.source), ("daddr", rule.destination)):
        if text:
            network = ipaddress.ip_network(text)
            parts.append(f"{'ip' if network.version == 4 else 'ip6'} {word} {network}")
    if rule.port:
        parts.append(f"{rule.protocol} dport {int(rule.port)}")
    elif rule.protocol:
        parts.append(f"meta l4proto {rule.protocol}")
    return " ".join((*parts, rule.verdict))


def _table(name: str, lines: dict[str, list[str]], priority: int) -> str:
    text = [f"table inet {name}", f"delete table inet {name}", f"table inet {name} {{"]
    for chain, rules in lines.items():
        if not rules:
            continue
        text += [f"  chain {chain} {{", f"    type filter hook {chain} priority {priority}; policy accept;"]
        text += [f"    {rule}" for rule in rules]
        text.append("  }")
    return "\n".join((*text, "}", ""))


class Nftables:
    """The implementation by ``nft -f -``."""

    def replace(self, inside: str, text: str) -> None:
        """Replace one table in the namespace at *inside* ("": the caller's own).

        Raises:
            OSError: nft is missing or refused.
        """
        from supervision import network

        with network.within(inside):
            failpoint("firewall.spawn")
            done = subprocess.run(["nft", "-f", "-"], input=text.encode(), capture_output=True, timeout=NFT_DEADLINE_S, check=False)
        if done.returncode != 0:
            raise OSError(f"nft refused the rules: {done.stderr.decode(errors='replace').strip()[:300]}")


def replace(inside: str, text: str) -> None:
    """Replace one table by the implementation of this machine."""
    Nftables().replace(inside, text)


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {"firewall.replace": replace}
