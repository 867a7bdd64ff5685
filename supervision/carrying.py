"""The steps that are about the machine and not about one node: fabric, rules, trees, listening sockets.

Owns their checks against this cloud's own names, and errands: work that may take long runs in a child of hands.
May import: enjin, supervision.{init_link,steps,trees,workshop}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from enjin.errors import CODES, EnjinError, StepFailed, code_of, from_reply
from enjin.failpoints import failpoint
from supervision import steps, trees
from supervision.confinement import close_others, read_some
from supervision.records import NodeRecord, verify
from supervision.workshop import Workshop

ERRAND_S: Final = 300.0
T = TypeVar("T", bound=msgspec.Struct)


async def errand(shop: Workshop, function: Callable[[], T], shape: type[T], deadline_s: float = ERRAND_S) -> T:
    """Run *function* in a child and return its result.

    Raises:
        EnjinError: The one that *function* raised.
        StepFailed: The child died, or did not end in time.
    """
    read, write = os.pipe()
    failpoint("errand.spawn")
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            close_others({0, 1, 2, write})
            data = msgspec.json.encode({"result": function()})
        except EnjinError as error:
            data = msgspec.json.encode({"error": [code_of(error), error.message, error.hint]})
        except BaseException as error:
            data = msgspec.json.encode({"error": [StepFailed.code, f"{type(error).__name__}: {error}", ""]})
        os.write(write, data)
        os._exit(0)
    os.close(write)
    os.set_blocking(read, False)
    status = shop.reaper.expect(pid)
    said = b""
    try:
        async with asyncio.timeout(deadline_s):
            while part := await read_some(read, deadline_s, "an errand does not end"):
                said += part
            await status
    except TimeoutError as error:
        raise StepFailed("an errand does not end in time") from error
    finally:
        if not status.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(read)
    if not said:
        raise StepFailed("an errand died")
    answer = msgspec.json.decode(said)
    if "error" in answer:
        code, message, hint = answer["error"]
        raise from_reply(code if code in CODES else StepFailed.code, message, hint)
    return msgspec.convert(answer["result"], shape)


async def ensure_fabric(shop: Workshop, step: steps.EnsureFabric) -> steps.Done:
    """Make or mend a bridge, and close it: nodes reach nothing beside them unless a rule lets them."""
    _own_fabric(shop, step.netns)
    if not shop.config.privileged:
        raise steps.Unsupported("a fabric needs hands to be root")
    changed = await shop.worker.call("fabric.ensure", netns=step.netns, bridge=step.bridge, addresses=step.addresses)
    shop.remember_fabric(step.netns, bridge=step.bridge, addresses=step.addresses)
    await shop.apply_rules(step.netns)
    return steps.Done(changed=changed)


async def remove_fabric(shop: Workshop, step: steps.RemoveFabric) -> steps.Done:
    """Remove a fabric; refused while a node hangs on it."""
    _own_fabric(shop, step.netns)
    for record in shop.records.each():
        if record.spec.interface is not None and verify(record.identity, shop.groups) != "gone":
            raise steps.Busy(f"{record.spec.node} still hangs on the fabric", hint="stop it first")
    changed = await shop.worker.call("fabric.remove", netns=step.netns, bridge=step.bridge)
    shop.forget_fabric(step.netns)
    if shop.groups is not None:
        shop.groups.remove_parent()
    return steps.Done(changed=changed)


def _own_fabric(shop: Workshop, netns: str) -> None:
    if netns and netns != f"enjin-{shop.config.tag}":
        raise steps.BadStep(f"{netns} is not a network namespace of this cloud")
    if not netns and not shop.own_network:
        raise steps.BadStep("hands runs in the host's network namespace, which gets nothing", hint="name the cloud's network namespace")


async def replace_rules(shop: Workshop, step: steps.ReplaceRules) -> steps.Done:
    """Replace the access rules of a fabric in one transaction."""
    _own_fabric(shop, step.netns)
    shop.remember_fabric(step.netns, rules=step.rules)
    await shop.apply_rules(step.netns)
    return steps.Done(changed=True)


async def seal_tree(shop: Workshop, step: steps.SealTree, quiet: Callable[[NodeRecord], Awaitable[None]]) -> steps.Sealed:
    """Seal a tree; what still runs in the node that wrote it is ended first, but for its init, which answers for it."""
    if step.root == "nodes":
        record = shop.records.load(step.source.partition("/")[0])
        if record is not None:
            await quiet(record)
    root, target = shop.root(step.root), shop.root(step.target)
    owner = 0 if shop.config.privileged else None
    return await errand(
        shop, lambda: trees.seal(root, step.source, target, step.limit_bytes, step.limit_entries, owner), steps.Sealed
    )  # fmt: skip


async def remove_tree(shop: Workshop, step: steps.RemoveTree) -> steps.Done:
    """Remove a tree below a root."""
    root = shop.root(step.root)
    return await errand(shop, lambda: steps.Done(changed=trees.remove(root, step.path)), steps.Done)


async def listeners(shop: Workshop, names: tuple[str, ...], descriptors: list[int]) -> dict[str, int]:
    """Return name -> descriptor: those that came with the step, in order, else taken from hands' own init.

    Raises:
        BadStep: Some came, but not one for each name.
    """
    if descriptors:
        if len(descriptors) != len(names):
            raise steps.BadStep(f"{len(descriptors)} descriptors came for {len(names)} listeners")
        return dict(zip(names, descriptors, strict=True))
    if not names:
        return {}
    if not shop.config.init:
        raise steps.BadStep("hands has no init to take listeners from")
    from supervision.init_link import InitLink

    taken: dict[str, int] = {}
    try:
        async with await InitLink.connect(shop.config.init) as link:
            for name in names:
                taken[name] = await link.take(name if name.startswith("listener:") else f"listener:{name}")
    except EnjinError:
        for descriptor in taken.values():
            os.close(descriptor)
        raise
    return taken


async def give_listeners(shop: Workshop, step: steps.GiveListeners, descriptors: list[int]) -> steps.Done:
    """Hand listening sockets to a running node's init."""
    from supervision.init_link import InitLink

    record = shop.records.load(step.node)
    if record is None or verify(record.identity, shop.groups) != "ours":
        raise steps.NoSuchNode(f"node {step.node} does not run")
    taken = await listeners(shop, step.listeners, descriptors)
    try:
        async with await InitLink.connect(shop.home / record.control) as link:
            for name, descriptor in taken.items():
                await link.give(name.removeprefix("listener:"), descriptor)
    finally:
        for descriptor in taken.values():
            if descriptor not in descriptors:
                os.close(descriptor)
    return steps.Done(changed=True)
