"""The shipped hub with a mind of its own: by a seed it loses, repeats, reorders and delays whole messages.

Usage: `unkind_hub.py SEED --config FILE`.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import bus.hub.__main__ as program
from bus.hub.serving import CONFIRM, Hub
from enjin.host import monotonic_s

LOSE, REPEAT, LATE = 0.2, 0.3, 0.4
LATE_S_MAX = 0.2


class UnkindHub(Hub):
    """Passes on what it likes, as often and as late as it likes; it cannot read or forge anything."""

    chance = random.Random(0)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._late: list[tuple[float, list[Any]]] = []

    def step(self, timeout_ms: int) -> None:
        super().step(min(timeout_ms, 5))
        now_s = monotonic_s()
        for due in [one for one in self._late if one[0] <= now_s]:
            self._late.remove(due)
            super()._send(due[1])

    def _send(self, parts: list[Any]) -> None:
        topic = bytes(parts[0])
        if topic.startswith(CONFIRM) or not self._admitting:
            super()._send(parts)
        elif self.chance.random() >= LOSE:
            whole = [topic, bytes(parts[1])]
            for _ in range(2 if self.chance.random() < REPEAT else 1):
                if self.chance.random() < LATE:
                    self._late.append((monotonic_s() + self.chance.uniform(0, LATE_S_MAX), whole))
                else:
                    super()._send(list(whole))


if __name__ == "__main__":
    UnkindHub.chance = random.Random(int(sys.argv[1]))
    program.Hub = UnkindHub  # type: ignore[misc]
    raise SystemExit(program.main(sys.argv[2:]))
