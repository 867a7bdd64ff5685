"""Fabric, links and rules: made as planned, mended when someone removes a part, gone afterwards, and never in the host's namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervision import steps
from supervision.firewall import closed_set, fabric_text, outer_text
from tests.supervision.rig import Failed, Rig, app_spec, rig, wait_until

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def host_state() -> str:
    """Return the links, addresses, routes and rules of the namespace that the test runs in."""
    lines = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in (
        ["ip", "-o", "link"], ["ip", "-o", "-4", "addr"], ["ip", "route"], ["nft", "list", "ruleset"],
    )]  # fmt: skip
    return "\n".join(lines)


def in_netns(name: str, *words: str) -> str:
    return subprocess.run(["nsenter", f"--net={name}", *words], capture_output=True, text=True, check=True).stdout


@root
def test_fabric_is_made_once_and_mended(runtime: Path) -> None:
    """The second time nothing is to do; what is removed is put back; removal leaves nothing; the host's namespace is untouched."""
    before = host_state()
    with rig(runtime) as one:
        space = f"/run/netns/{one.netns}"
        step = steps.EnsureFabric(bridge=one.bridge, netns=one.netns, addresses=("10.80.0.1/24", "fd00:80::1/64"))
        assert one.do(step) == {"changed": True}
        assert one.do(step) == {}
        in_netns(space, "ip", "addr", "del", "10.80.0.1/24", "dev", one.bridge)
        assert one.do(step) == {"changed": True}
        assert "10.80.0.1/24" in in_netns(space, "ip", "addr")
        in_netns(space, "ip", "link", "del", one.bridge)
        assert one.do(step) == {"changed": True}
        in_netns(space, "ip", "link", "set", one.bridge, "down")
        assert one.do(step) == {"changed": True}
        subprocess.run(["umount", space], check=True)
        assert one.do(step) == {"changed": True}
        assert one.do(steps.RemoveFabric(bridge=one.bridge, netns=one.netns)) == {"changed": True}
        assert one.do(steps.RemoveFabric(bridge=one.bridge, netns=one.netns)) == {}
        assert not Path(space).exists()
    assert host_state() == before


@root
def test_a_fabric_that_was_hidden_is_removed(runtime: Path) -> None:
    """Somebody's `ip netns add` binds the directory of namespaces onto itself meanwhile: ours is hidden, and still goes."""
    with rig(runtime) as one:
        one.kill()
        one.interpreter = ["unshare", "--mount", "--propagation", "private", *one.interpreter]  # others' namespaces are not hidden
        one.start()
        assert one.process is not None
        space, mounts = Path(f"/run/netns/{one.netns}"), Path(f"/proc/{one.process.pid}/mounts")
        one.do(steps.EnsureFabric(bridge=one.bridge, netns=one.netns, addresses=("10.80.0.1/24",)))
        assert str(space) in mounts.read_text()
        inside = ["nsenter", f"--mount=/proc/{one.process.pid}/ns/mnt"]
        subprocess.run([*inside, "mount", "--bind", "/run/netns", "/run/netns"], check=True)
        assert one.do(steps.RemoveFabric(bridge=one.bridge, netns=one.netns)) == {"changed": True}
        assert not space.exists()
        assert str(space) not in mounts.read_text()


@root
def test_a_removed_link_or_route_is_seen_and_put_back(hands: Rig) -> None:
    """Whatever of a running node's network someone removes, inspection names it and the next start puts it back, without a restart."""
    interface = steps.Interface(bridge=hands.bridge, addresses=("10.80.0.90/24", "fd00:80::90/64"), gateway=("10.80.0.1", "fd00:80::1"))
    spec = app_spec(hands, 90, interface=interface)
    running = hands.do(steps.StartNode(spec=spec))
    inside, space = f"/proc/{running['pid']}/ns/net", f"/run/netns/{hands.netns}"
    port = in_netns(space, "ip", "-o", "link", "show", "master", hands.bridge).split(":")[1].split("@")[0].strip()
    breaks = {
        "route": (inside, "ip", "route", "del", "default"),
        "address": (inside, "ip", "addr", "del", "10.80.0.90/24", "dev", "eth0"),
        "link": (space, "ip", "link", "del", port),
    }
    try:
        assert "missing" not in hands.do(steps.InspectNode(node=spec.node))
        for what, (where, *words) in breaks.items():
            in_netns(where, *words)
            assert what in hands.do(steps.InspectNode(node=spec.node))["missing"]
            assert hands.do(steps.StartNode(spec=spec))["pid"] == running["pid"]
            wait_until(lambda: "missing" not in hands.do(steps.InspectNode(node=spec.node)))
        in_netns(space, "ip", "link", "set", port, "nomaster")
        assert hands.do(steps.InspectNode(node=spec.node))["missing"] == ["link"]
        hands.do(steps.StartNode(spec=spec))
        assert "missing" not in hands.do(steps.InspectNode(node=spec.node))
        assert "default via 10.80.0.1" in in_netns(inside, "ip", "route")
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


@root
def test_a_removed_way_out_is_opened_again(hands: Rig) -> None:
    """When the process that carries a jail's way out is killed, inspection says so and the next start opens it again."""
    from tests.supervision.rig import Ring1

    ring1 = Ring1(hands, address="10.80.0.91", outgoing=True)
    record = (hands.home / "hands" / "nodes" / f"{ring1.node}.json").read_text()
    import json

    pid = json.loads(record)["helpers"]["outgoing"]["pid"]
    os.kill(pid, 9)
    wait_until(lambda: hands.do(steps.InspectNode(node=ring1.node)).get("missing") == ["outgoing"])
    assert hands.do(steps.StartNode(spec=ring1.spec))["pid"] == ring1.running["pid"]
    assert "missing" not in hands.do(steps.InspectNode(node=ring1.node))
    hands.do(steps.DestroyNode(node=ring1.node))
    ring1.close()


@root
def test_a_fabric_in_use_is_not_removed(hands: Rig) -> None:
    """A fabric on which a node hangs stays."""
    spec = app_spec(hands, 92)
    hands.do(steps.StartNode(spec=spec))
    try:
        with pytest.raises(Failed) as refused:
            hands.do(steps.RemoveFabric(bridge=hands.bridge, netns=hands.netns))
        assert refused.value.code == "E-STP-007"
    finally:
        hands.do(steps.DestroyNode(node=spec.node))


@root
def test_rules_are_replaced_whole(hands: Rig) -> None:
    """The rules in force are exactly those of the last replacement; one that nft refuses changes nothing."""
    space = f"/run/netns/{hands.netns}"
    open_port = steps.Rule(chain="input", verdict="accept", source="10.80.0.0/24", protocol="tcp", port=53, link=hands.bridge)
    hands.do(steps.ReplaceRules(netns=hands.netns, rules=(open_port,)))
    text = in_netns(space, "nft", "list", "table", "inet", "enjin")
    assert "tcp dport 53 accept" in text
    assert text.index("dport 53") < text.index(f'iifname "{hands.bridge}" drop')
    hands.do(steps.ReplaceRules(netns=hands.netns, rules=()))
    assert "dport 53" not in in_netns(space, "nft", "list", "table", "inet", "enjin")


def test_rules_as_text() -> None:
    """A fabric's table closes what no rule opens; closed networks are merged and split by family."""
    text = fabric_text("apps", (steps.Rule(chain="forward", verdict="accept", destination="fd00::/8"),), {1000: ["192.0.2.1"]})
    assert "ip6 daddr fd00::/8 accept" in text
    assert text.index("fd00::/8 accept") < text.index('oifname "apps" drop')
    assert "meta skuid 1000 ip daddr {" in text
    assert text.startswith("table inet enjin\ndelete table inet enjin\n")
    four, six = closed_set(["10.0.0.0/8", "10.80.0.0/16", "192.0.2.7"])
    assert "10.0.0.0/8" in four
    assert "10.80.0.0/16" not in four
    assert "192.0.2.7/32" in four
    assert "::1/128" in six
    assert 'oifname "tap0"' in outer_text([])


@pytest.mark.parametrize(
    "values",
    [
        {"link": 'apps" accept; #'}, {"source": "10.0.0.0/8; flush ruleset"}, {"source": "10.0.0.1/8"}, {"port": 80},
        {"protocol": "tcp", "port": 70_000},
    ],
)  # fmt: skip
def test_a_rule_holds_no_text(values: dict[str, object]) -> None:
    """Nothing reaches the text of the rules that was not parsed as an address, a number or a link's name."""
    with pytest.raises(steps.BadStep):
        steps.Rule(chain="input", verdict="accept", **values)  # type: ignore[arg-type]
