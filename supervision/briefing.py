"""What a node's init is told, and how: its specification over a socket that both ends see closed.

Owns the translation from a node's specification to init's, also of the paths that a jail would show elsewhere.
May import: supervision.{confinement,steps}.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, Final

import msgspec

from enjin.failpoints import failpoint
from supervision.confinement import Child, read_some
from supervision.steps import NodeFailed, NodeSpec

TELL_S: Final = 20.0


def init_spec(spec: NodeSpec, control: int, listeners: dict[str, int], translate: dict[str, str], subreaper: bool, own: bool) -> bytes:
    """Return what the node's init is told, as JSON.

    Args:
        translate: target -> host path, where a node has no mount namespace of its own; init leads what it starts later there too.
        own: Services run as init's own user, whatever they say.
    """
    services = []
    for service in spec.services:
        service = msgspec.structs.replace(service, files=service.files or spec.limits.files)
        plain = {**msgspec.to_builtins(msgspec.structs.replace(service, env={**spec.environment, **service.env}))}
        for name in ("argv", "env", "cwd", "fds", "name"):
            plain.setdefault(name, msgspec.to_builtins(getattr(service, name)))
        if own:
            plain.update(uid=-1, gid=-1, groups=[])
        if translate:
            plain["argv"] = [translated(text, translate) for text in plain["argv"]]
            plain["env"] = {key: translated(text, translate) for key, text in plain["env"].items()}
            plain["cwd"] = translated(plain["cwd"], translate)
        services.append(plain)
    controls: list[dict[str, Any]] = [{"fd": control, "role": "supervisor"}]
    for extra in spec.controls:
        controls.append({
            "path": translated(extra.path, translate), "owner": extra.owner, "mode": extra.mode, "role": extra.role,
            "uids": [list(pair) for pair in extra.uids],
        })  # fmt: skip
        if own:
            controls[-1].pop("owner")
    return json.dumps({
        "name": spec.node, "subreaper": subreaper, "controls": controls,
        "listeners": [{"name": handle.removeprefix("listener:"), "fd": fd} for handle, fd in listeners.items()],
        "channels": list(spec.channels), "services": services, "places": translate if spec.purpose != "ring1" else {},
    }).encode()  # fmt: skip


def translated(text: str, table: dict[str, str]) -> str:
    """Return *text* with a leading target replaced by its path on the host; longest target first."""
    for target in sorted(table, key=len, reverse=True):
        if text == target or text.startswith((target + "/", target + ":")):
            return table[target] + text[len(target) :]
    return text


async def tell_init(channel: socket.socket, data: bytes, child: Child) -> None:
    """Give init its specification and wait until it has taken it.

    Raises:
        NodeFailed: Init ended, or did not take it in time.
    """
    loop = asyncio.get_running_loop()
    channel.setblocking(False)
    try:
        failpoint("briefing.send")
        await loop.sock_sendall(channel, data)
        channel.shutdown(socket.SHUT_WR)
        await read_some(channel.fileno(), TELL_S, "init does not take its specification")
    except OSError as error:
        raise NodeFailed(f"init ended before it began{child.errors()}") from error
