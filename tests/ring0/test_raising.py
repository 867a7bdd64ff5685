"""What `enjin up` checks before it begins: strategy, programs, another checkout, a removal that was cut off."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from enjin.config import Config, load
from enjin.errors import ConfigError
from ring0 import launch, raising
from ring0.foundation import OtherCheckout, found, read_foundation
from ring0.lowering import destroy_cloud, lower_cloud
from ring0.runtime import checkout


@pytest.fixture
def config(home: Path, port_base: int) -> Config:
    """The configuration of a cloud that is not there yet."""
    return load({})


def make(config: Config, at: str = "") -> None:
    """Found an unprivileged cloud, and start nothing."""
    found(config, privileged=False, ring1="process", first_uid=os.geteuid(), checkout=at or str(checkout()))


def test_the_strategy_is_the_strongest_that_works(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root with namespaces gets jails, anybody else processes; a jail without root is refused; forced is forced."""
    forced = {name: msgspec.structs.replace(config, ring1=name) for name in ("jail", "process")}
    for uid, works, expected in ((0, True, "jail"), (0, False, "process"), (1000, True, "process")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.setattr(raising, "_jails_work", lambda works=works: works)
        assert raising.choose_strategy(config, None) == expected
        assert raising.choose_strategy(forced["process"], None) == "process"
    with pytest.raises(raising.NeedsRoot):
        raising.choose_strategy(forced["jail"], None)


def test_a_cloud_keeps_its_strategy(config: Config) -> None:
    """Founded by one strategy, it is never raised by another."""
    make(config)
    there = read_foundation(config.path)
    assert raising.choose_strategy(config, there) == "process"
    with pytest.raises(ConfigError, match="founded with ring 1 as process"):
        raising.choose_strategy(msgspec.structs.replace(config, ring1="jail"), there)


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every package that lacks is in one line; a cloud of processes needs fewer."""
    monkeypatch.setattr(raising, "SEARCH", str(tmp_path))
    with pytest.raises(raising.MissingProgram, match="bubblewrap, haproxy, nftables, slirp4netns") as missing:
        raising.check_programs("jail")
    assert "apt-get install bubblewrap haproxy" in missing.value.hint
    with pytest.raises(raising.MissingProgram, match=r"this machine: haproxy$"):
        raising.check_programs("process")


def test_a_running_cloud_of_another_checkout_is_left_alone(config: Config) -> None:
    """It is refused while it runs, and nothing of it changes."""
    make(config, "/another/checkout")
    before = read_foundation(config.path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as running:
        running.bind(str(config.path / launch.INIT_SOCKET))
        running.listen(1)
        with pytest.raises(OtherCheckout, match="/another/checkout"):
            raising.raise_cloud(config, lambda _: None)
    assert read_foundation(config.path) == before


def test_a_taken_port_founds_nothing(config: Config) -> None:
    """Ports are tried before anything is made."""
    with socket.create_server(("127.0.0.1", config.router_port)), pytest.raises(launch.PortTaken):
        raising.raise_cloud(msgspec.structs.replace(config, ring1="process"), lambda _: None)
    assert list(config.path.iterdir()) == []


def test_a_removal_that_was_cut_off_is_finished(config: Config) -> None:
    """Half a cloud is never raised: it is said so, and `down --destroy` takes the rest away, sealed trees too."""
    make(config)
    tree = config.path / "releases" / ("0" * 64)
    tree.mkdir(parents=True)
    (tree / "Procfile").touch(0o444)
    tree.chmod(0o555)
    (config.path / "ring0/trust.json").unlink()
    with pytest.raises(raising.HalfRemoved):
        raising.raise_cloud(config, lambda _: None)
    assert not lower_cloud(config)
    destroy_cloud(config)
    assert [config.path.exists(), Path(config.keys).exists()] == [False, False]
    assert not lower_cloud(config)


def test_own_addresses_are_not_loopbacks() -> None:
    """What builds may not reach is this host's addresses; loopback is closed to them anyway."""
    assert not {"127.0.0.1", "::1", ""} & set(raising.own_addresses())
