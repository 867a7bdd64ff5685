"""Steps and specifications: what does not fit is refused when it is parsed, before anything looks at it."""

from __future__ import annotations

import msgspec
import pytest

from supervision import steps
from supervision.seccomp import FAMILIES, REFUSED, allowed, programs

NODE = "node-0123456789abcdef"


@pytest.mark.parametrize("path", ["", "/etc", "..", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b", "a b", "a\nb", "é", "a/" * 600 + "a"])
def test_paths_are_plain_and_relative(path: str) -> None:
    """A path in a step is relative, without `..`, empty parts or odd characters."""
    for make in (
        lambda: steps.Mount(root="releases", source=path, target="/app"),
        lambda: steps.SealTree(root="nodes", source=path),
        lambda: steps.RemoveTree(root="nodes", path=path),
    ):
        with pytest.raises(steps.BadStep):
            make()


@pytest.mark.parametrize(
    "values",
    [
        {"node": "web"}, {"node": NODE + "\n"}, {"generation": 0}, {"compartment": "../x"}, {"hostname": "a b"},
        {"environment": {"A": "x\0y"}},
        {"closed": ("10.0.0.1/8",)}, {"strategy": "vm"}, {"purpose": "shell"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_specification_is_checked(values: dict[str, object]) -> None:
    """A malformed field refuses the whole step."""
    spec = {"node": NODE, "generation": 1, "strategy": "jail", "purpose": "app", **values}
    with pytest.raises(steps.BadStep):
        steps.parse_step(msgspec.json.encode({"kind": "node.start", "spec": spec}))


def test_a_step_survives_the_channel() -> None:
    """What is encoded is parsed to the same value."""
    spec = steps.NodeSpec(
        node=NODE, generation=3, strategy="jail", purpose="ring1", range=524_288,
        interface=steps.Interface(bridge="apps", addresses=("10.0.0.2/24",)),
        mounts=(steps.Mount(root="host", source="/srv/wheels", target="/srv/wheels"),), controls=(steps.Control(path="/run/init.sock"),),
        services=(steps.Service(name="main", argv=("/usr/bin/true",), signal="SIGINT", fds={"3": "listener:web"}),),
    )  # fmt: skip
    step = steps.StartNode(spec=spec)
    assert steps.parse_step(msgspec.json.encode(step)) == step


@pytest.mark.parametrize("target", ["/", "app", "/a/../b", "/app/"])
def test_mount_targets_are_absolute(target: str) -> None:
    """A target is absolute, plain, and not the whole tree."""
    with pytest.raises(steps.BadStep):
        steps.Mount(root="releases", source="x", target=target)


def test_host_paths_are_never_writable() -> None:
    """No step makes a directory of the host writable in a node."""
    with pytest.raises(steps.BadStep):
        steps.Mount(root="host", source="/srv/wheels", target="/w", writable=True)


def test_the_list_of_system_calls(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """No dangerous call is in the allow list; it compiles, and is taken from disk the second time."""
    assert set(allowed()).isdisjoint(REFUSED.split())
    assert {"clone3", "socket", "unshare", "setns", "ptrace", "mount", "bpf", "io_uring_setup"}.isdisjoint(allowed())
    assert 38 not in FAMILIES
    first = programs(tmp_path)
    assert all(len(program) % 8 == 0 and program for program in first)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert programs(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept
