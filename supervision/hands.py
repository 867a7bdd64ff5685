"""The privileged half of a supervisor: carries out steps from a closed table, and nothing else.

Owns the channel (one JSON datagram per message, docs/architecture.md 9), the table from step to function, one lock per node, and the events
of nodes that ended. Holds no key, speaks no network protocol, decides nothing: addresses, uids and names come with the step and are checked
against this cloud's own. Its death changes nothing: what it started goes on, and the next hands takes it up from the records.

INV-HND-1: only steps of the table, parsed in full, are carried out; a message that is not one is answered by an error and changes nothing.
INV-HND-2: steps about one node run one after the other; a hanging one delays no other node.
May import: enjin, supervision.*.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from enjin import log
from enjin.errors import ConfigError, EnjinError, StepFailed, code_of
from enjin.failpoints import failpoint
from supervision import carrying, steps
from supervision.jail import Jail
from supervision.process import Process
from supervision.records import NodeRecord
from supervision.settings import Config, read_config
from supervision.strategy import Strategy
from supervision.user import User
from supervision.workshop import Workshop

MESSAGE_BYTES: Final = 1 << 20
QUEUE: Final = 1024
AT_ONCE: Final = 64
DESCRIPTORS: Final = 16


class Hands:
    """One process's worth of hands."""

    def __init__(self, config: Config, channel: socket.socket) -> None:
        self.shop: Final = Workshop(config, self.say)
        self.drivers: Final[dict[str, Strategy]] = {d.NAME: d for d in (Jail(self.shop), User(self.shop), Process(self.shop))}
        self._channel = channel
        self._out: deque[bytes] = deque(maxlen=QUEUE)
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._log = log.get("hands")

    async def run(self) -> None:
        """Take up what runs, then serve until the channel or the process is told to end."""
        loop = asyncio.get_running_loop()
        self.shop.worker.start()
        self.shop.reaper.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._closed.set)
        self.shop.recover_fabric()
        for driver in self.drivers.values():
            for running in await driver.recover():
                self._log.info("node.readopted", node=running.node, generation=running.generation, pid=running.pid)
        self._channel.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._channel.setsockopt(socket.SOL_SOCKET, option, MESSAGE_BYTES)
        self.say({"event": "hands.began"})
        loop.add_reader(self._channel.fileno(), self._read)
        await self._closed.wait()
        tasks = self._tasks | self.shop.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.shop.worker.stop()

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; what cannot go now waits in a bounded queue."""
        self._out.append(msgspec.json.encode(message))
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._out:
            try:
                failpoint("hands.answer.send")
                self._channel.send(self._out[0])
            except BlockingIOError:
                loop.add_writer(self._channel.fileno(), self._flush)
                return
            except OSError as error:
                self._log.error("message.lost", error=str(error), bytes=len(self._out[0]))
            self._out.popleft()
        loop.remove_writer(self._channel.fileno())

    def _read(self) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self._log.error("channel.failed", error=str(error))
            data, descriptors, flags = b"", [], 0
        if not data:
            self._closed.set()
            return
        number = _id_of(data)
        if number is not None and any(task.get_name() == str(number) for task in self._tasks):
            _close(descriptors)  # it was sent before our first word, and again when that was heard
            return
        if len(self._tasks) >= AT_ONCE:
            _close(descriptors)
            self._answer_error(number, StepFailed(f"{AT_ONCE} steps are under way"))
            return
        task = asyncio.create_task(self._handle(data, descriptors, bool(flags & socket.MSG_TRUNC)), name=str(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, data: bytes, descriptors: list[int], cut: bool) -> None:
        number = _id_of(data)
        try:
            if cut:
                raise steps.BadStep(f"the message is longer than {MESSAGE_BYTES} bytes")
            result = await self._carry_out(steps.parse_step(_step_of(data)), descriptors)
            self.say({"id": number, "result": result})
        except EnjinError as error:
            self._answer_error(number, error)
        except OSError as error:
            self._answer_error(number, StepFailed(f"{error.strerror or error} {error.filename or ''}".strip()))
        except Exception as error:
            self._log.error("step.failed", error=f"{type(error).__name__}: {error}", exc_info=True)
            self._answer_error(number, StepFailed(f"hands failed: {type(error).__name__}: {error}"))
        finally:
            _close(descriptors)

    def _answer_error(self, number: object, error: EnjinError) -> None:
        self._log.warning("step.refused" if not error.retry else "step.failed", error=error.message, code=code_of(error))
        self.say({"id": number, "error": {"code": code_of(error), "message": error.message, "hint": error.hint}})

    async def _carry_out(self, step: steps.AnyStep, descriptors: list[int]) -> msgspec.Struct:
        function = TABLE[type(step)]
        node = step.spec.node if isinstance(step, steps.StartNode) else getattr(step, "node", "")
        if not node:
            return await function(self, step, descriptors)
        lock = self._locks.setdefault(node, asyncio.Lock())
        async with lock:
            return await function(self, step, descriptors)

    def driver_of(self, node: str) -> tuple[Strategy, NodeRecord]:
        """Return the strategy that runs *node*, and its record.

        Raises:
            NoSuchNode: There is no record.
        """
        record = self.shop.records.load(node)
        if record is None:
            raise steps.NoSuchNode(f"there is no node {node}")
        return self.drivers[record.spec.strategy], record

    async def start(self, step: steps.StartNode, descriptors: list[int]) -> steps.Running:
        spec = step.spec
        record = self.shop.records.load(spec.node)
        if record is not None and record.spec.strategy != spec.strategy:
            await self.drivers[record.spec.strategy].destroy(spec.node, keep_state=True)
        taken = await carrying.listeners(self.shop, spec.listeners, descriptors)
        try:
            return await self.drivers[spec.strategy].start(spec, taken)
        finally:
            _close([fd for fd in taken.values() if fd not in descriptors])

    async def inspect(self, step: steps.InspectNode, _: list[int]) -> steps.Running:
        found = await self.driver_of(step.node)[0].inspect(step.node)
        if found is None:
            raise steps.NoSuchNode(f"there is no node {step.node}")
        return found

    async def inspect_all(self, _: steps.InspectAll, __: list[int]) -> steps.Seen:
        found = []
        for record in self.shop.records.each():
            found.append(await self.drivers[record.spec.strategy].inspect(record.spec.node))
        nodes = tuple(running for running in found if running is not None)
        return steps.Seen(nodes=nodes, fabrics=await self.shop.missing_fabrics())

    async def stop(self, step: steps.StopNode, _: list[int]) -> steps.Done:
        driver, record = self.driver_of(step.node)
        _fence(record, step.generation)
        if record.phase == "stopped":
            return steps.Done()
        await driver.stop(step.node, step.grace_ms / 1000)
        return steps.Done(changed=True)

    async def destroy(self, step: steps.DestroyNode, _: list[int]) -> steps.Done:
        record = self.shop.records.load(step.node)
        if record is None:
            return steps.Done(changed=await self._sweep(step))
        _fence(record, step.generation)
        driver = self.drivers[record.spec.strategy]
        if step.grace_ms and record.phase == "running":
            await driver.stop(step.node, step.grace_ms / 1000)
        await driver.destroy(step.node, step.keep_state)
        self._locks.pop(step.node, None)
        return steps.Done(changed=True)

    async def seal(self, step: steps.SealTree, _: list[int]) -> steps.Sealed:
        async def quiet(record: NodeRecord) -> None:
            async with self._locks.setdefault(record.spec.node, asyncio.Lock()):
                await self.drivers[record.spec.strategy].quiet(record)

        return await carrying.seal_tree(self.shop, step, quiet)

    async def _sweep(self, step: steps.DestroyNode) -> bool:
        """Remove what a node without a record may have left; return whether there was anything."""
        groups, directory = self.shop.groups, self.shop.node_directory(step.node)
        there = (groups is not None and step.node in groups.nodes()) or (directory.exists() and not step.keep_state)
        if there and groups is not None:
            await groups.finish(step.node)
        if there and not step.keep_state:
            await carrying.remove_tree(self.shop, steps.RemoveTree(root="nodes", path=step.node))
        return there


def _fence(record: NodeRecord, generation: int) -> None:
    if generation and generation < record.spec.generation:
        raise steps.Stale(f"{record.spec.node} is at generation {record.spec.generation}, the step at {generation}")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    id: msgspec.Raw
    step: msgspec.Raw


def _id_of(data: bytes) -> object:
    try:
        return msgspec.json.decode(msgspec.json.decode(data, type=_Request).id)
    except (msgspec.DecodeError, ValueError):
        return None


def _step_of(data: bytes) -> bytes:
    try:
        return bytes(msgspec.json.decode(data, type=_Request).step)
    except msgspec.DecodeError as error:
        raise steps.BadStep(f"the message does not parse: {error}") from error


async def _probe(hands: Hands, _: steps.Probe, __: list[int]) -> steps.Probed:
    results = await asyncio.gather(*(carrying.errand(hands.shop, driver.probe, steps.Verdict) for driver in hands.drivers.values()))
    return steps.Probed(strategies=dict(zip(hands.drivers, results, strict=True)))


TABLE: Final[dict[type, Callable[[Hands, Any, list[int]], Awaitable[msgspec.Struct]]]] = {
    steps.StartNode: Hands.start,
    steps.InspectNode: Hands.inspect,
    steps.InspectAll: Hands.inspect_all,
    steps.StopNode: Hands.stop,
    steps.DestroyNode: Hands.destroy,
    steps.EnsureFabric: lambda hands, step, _: carrying.ensure_fabric(hands.shop, step),
    steps.RemoveFabric: lambda hands, step, _: carrying.remove_fabric(hands.shop, step),
    steps.ReplaceRules: lambda hands, step, _: carrying.replace_rules(hands.shop, step),
    steps.SealTree: Hands.seal,
    steps.RemoveTree: lambda hands, step, _: carrying.remove_tree(hands.shop, step),
    steps.GiveListeners: lambda hands, step, descriptors: carrying.give_listeners(hands.shop, step, descriptors),
    steps.Probe: _probe,
}


def main() -> int:
    """Run hands; the exit status is 0 when told to end, 2 when misconfigured."""
    parser = argparse.ArgumentParser(prog="python -m supervision.hands")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the channel")
    parser.add_argument("--config", required=True, help="path or descriptor of the configuration")
    options = parser.parse_args()
    try:
        config = read_config(options.config)
        os.umask(0o022)
        channel = socket.socket(fileno=options.channel)
        channel.set_inheritable(False)
        asyncio.run(_main(config, channel))
    except (ConfigError, OSError) as error:
        print(f"hands: {error}", file=sys.stderr)
        return 2
    return 0


async def _main(config: Config, channel: socket.socket) -> None:
    await Hands(config, channel).run()


if __name__ == "__main__":
    sys.exit(main())
