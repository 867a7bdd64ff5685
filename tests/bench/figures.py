"""The table of figures and its two forms, for people and for programs.

Owns names, units and targets; measures nothing.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple


class Figure(NamedTuple):
    """One promise."""

    name: str
    unit: str
    target: float
    better: Literal["lower", "higher"] = "lower"

    def met(self, value: float) -> bool:
        """Tell whether *value* keeps the promise."""
        return value <= self.target if self.better == "lower" else value >= self.target


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("up_warm_s", "s", 5),
        Figure("bootstrap_warm_s", "s", 15),
        Figure("push_first_200_s", "s", 1.5),
        Figure("app_restart_s", "s", 0.5),
        Figure("jail_start_ms", "ms", 60),
        Figure("command_p50_ms", "ms", 5),
        Figure("command_p99_ms", "ms", 25),
        Figure("router_ratio", "ratio", 0.9, "higher"),
        Figure("router_back_s", "s", 1),
        Figure("agent_back_s", "s", 1),
        Figure("daemon_back_s", "s", 2),
        Figure("ring0_pss_mb", "MB", 70),
        Figure("ring1_pss_mb", "MB", 70),
        Figure("hands_pss_mb", "MB", 45),
        Figure("agent_pss_mb", "MB", 28),
        Figure("init_pss_mb", "MB", 10),
        Figure("version_ms", "ms", 80),
        Figure("help_ms", "ms", 120),
        Figure("verified_per_s", "/s", 8000, "higher"),
        Figure("batched_records_per_s", "/s", 300_000, "higher"),
        Figure("ask_1000_s", "s", 1.0),
        Figure("ask_10000_s", "s", 6.0),
        Figure("ask_real_10_ms", "ms", 50),
        Figure("revoke_p50_ms", "ms", 100),
        Figure("revoke_p99_ms", "ms", 1000),
        Figure("rotate_100_s", "s", 15),
        Figure("hub_restart_s", "s", 2),
        Figure("reconnect_1000_s", "s", 10),
        Figure("bus_move_pause_s", "s", 2),
        Figure("journal_single_per_s", "/s", 3000, "higher"),
        Figure("journal_group_per_s", "/s", 30_000, "higher"),
        Figure("replay_per_s", "/s", 50_000, "higher"),
        Figure("restart_million_s", "s", 2),
        Figure("verify_million_s", "s", 60),
        Figure("verify_peak_mb", "MB", 256),
    )
}


class Peer(NamedTuple):
    """Something else that does the same, measured in the same run; *why* says why it did not run."""

    name: str
    value: float | None = None
    why: str = ""


class Row(NamedTuple):
    """One measured figure beside one peer (or none)."""

    figure: Figure
    value: float
    peer: Peer | None = None
    suffix: str = ""

    def fields(self) -> dict[str, object]:
        """Return the row as a program reads it."""
        peer = self.peer
        ratio = round(self.value / peer.value, 3) if peer and peer.value else None
        return {
            "name": self.figure.name + self.suffix,
            "value": round(self.value, 3),
            "unit": self.figure.unit,
            "target": self.figure.target,
            "better": self.figure.better,
            "met": self.figure.met(self.value),
            "peer": None if peer is None else peer.name if peer.value is not None else f"{peer.name} (not run: {peer.why})",
            "peer_value": None if peer is None or peer.value is None else round(peer.value, 3),
            "ratio": ratio,
        }


def rows(name: str, value: float, peers: Sequence[Peer] = ()) -> list[Row]:
    """Return the rows of figure *name*: one, and one more (`NAME_vs_PEER`) for each peer after the first."""
    figure = FIGURES[name]
    made = [Row(figure, value, peers[0] if peers else None)]
    made += [Row(figure, value, peer, f"_vs_{peer.name.split()[0].lower()}") for peer in peers[1:]]
    return made


def render_json(measured: Iterable[Row]) -> str:
    """Return the rows as a JSON array."""
    return json.dumps([row.fields() for row in measured], indent=1)


def render_table(measured: Iterable[Row]) -> str:
    """Return the rows as a table for people."""
    lines = [("figure", "measured", "target", "met", "peer", "peer's", "ratio")]
    for row in measured:
        cells = row.fields()
        sign = "<=" if row.figure.better == "lower" else ">="
        lines.append(
            (
                str(cells["name"]),
                f"{row.value:.3g} {row.figure.unit}",
                f"{sign} {row.figure.target:g} {row.figure.unit}",
                "yes" if cells["met"] else "NO",
                str(cells["peer"] or "-"),
                "-" if cells["peer_value"] is None else f"{cells['peer_value']:.3g} {row.figure.unit}",
                "-" if cells["ratio"] is None else f"{cells['ratio']:.3g}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def median_s(action: Callable[[], object], times: int) -> float:
    """Return the median seconds of *times* runs of *action*."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which *percent* of *values* lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]
