"""Run the benchmark: `python -m tests.bench [NAME…] [--json]`.

NAME is a figure (`push_first_200_s`) or a group (`push`); without one everything is measured. Exit status 1 when a figure could not be
measured; a missed target is printed, not an error.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable

from enjin import log
from tests import cloud as clouds
from tests.bench import (
    asking,
    bus_move,
    command,
    jail,
    journal,
    memory,
    opening,
    push,
    recovery,
    revoking,
    roll_call,
    rotating,
    router,
    start,
    up,
)  # fmt: skip
from tests.bench.figures import FIGURES, Row, render_json, render_table

Measure = Callable[[clouds.Cloud], list[Row]]

# Group -> its figures, its measurement, and whether it wants the shared cloud with examples/hello in it.
GROUPS: dict[str, tuple[tuple[str, ...], Measure]] = {
    "start": (("version_ms", "help_ms"), start.measure),
    "jail": (("jail_start_ms",), jail.measure),
    "memory": (("ring0_pss_mb", "ring1_pss_mb", "hands_pss_mb", "agent_pss_mb", "init_pss_mb"), memory.measure),
    "command": (("command_p50_ms", "command_p99_ms"), command.measure),
    "push": (("push_first_200_s", "app_restart_s"), push.measure),
    "router": (("router_ratio",), router.measure),
    "recovery": (("router_back_s", "agent_back_s", "daemon_back_s"), recovery.measure),
    "opening": (("verified_per_s", "batched_records_per_s"), opening.measure),
    "journal": (
        ("journal_single_per_s", "journal_group_per_s", "replay_per_s", "restart_million_s", "verify_million_s", "verify_peak_mb"),
        journal.measure,
    ),
    "revoke": (("revoke_p50_ms", "revoke_p99_ms"), revoking.measure),
    "rotate": (("rotate_100_s",), rotating.measure),
    "hub": (("hub_restart_s",), roll_call.hub_restart),
    "bus_move": (("bus_move_pause_s",), bus_move.measure),
    "ask": (("ask_1000_s",), asking.thousand),
    "ask_many": (("ask_10000_s",), asking.ten_thousand),
    "reconnect": (("reconnect_1000_s",), asking.reconnected),
    "ask_real": (("ask_real_10_ms",), roll_call.real),
    "up": (("up_warm_s", "bootstrap_warm_s"), up.measure),
}


def chosen(names: list[str]) -> list[str]:
    """Return the groups that *names* ask for.

    Raises:
        SystemExit: A name is neither a figure nor a group.
    """
    wanted = []
    for name in names:
        groups = [group for group, (figures, _measure) in GROUPS.items() if name == group or name in figures]
        if not groups:
            print(f"no such figure: {name}; there are {', '.join(FIGURES)}", file=sys.stderr)
            raise SystemExit(2)
        wanted += groups
    return [group for group in GROUPS if not names or group in wanted]


def measure(groups: list[str]) -> tuple[list[Row], int]:
    """Measure *groups* in one cloud; return the rows and how many groups failed."""
    found: list[Row] = []
    failed = 0
    with clouds.cloud() as cloud:
        cloud.push(clouds.ROOT / "examples/hello", "hello")
        for group in groups:
            began = time.monotonic()
            try:
                found += GROUPS[group][1](cloud)
            except Exception:
                failed += 1
                print(f"{group}: not measured\n{traceback.format_exc()}", file=sys.stderr)
            print(f"  {group:20} {time.monotonic() - began:6.1f} s", file=sys.stderr)
    return found, failed


def main(arguments: list[str]) -> int:
    """Measure and print."""
    names = [argument for argument in arguments if argument != "--json"]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # the daemons' classes log in this process; the figures alone are printed
        log.configure(stream=nowhere)
        found, failed = measure(chosen(names))
    asked = {figure for name in names for figure in (GROUPS[name][0] if name in GROUPS else (name,))}
    found = [row for row in found if not names or row.figure.name in asked]
    print(render_json(found) if "--json" in arguments else render_table(found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
