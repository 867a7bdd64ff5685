"""Token buckets: how much each issuer or connection may send. Pure: the caller gives the time.

INV-RATE-1: memory is bounded: at most ``capacity`` buckets; a full bucket is as good as none and goes first.
INV-RATE-2: what is malformed costs the same as what is not.
"""

from __future__ import annotations

from collections import OrderedDict


class Buckets:
    """One token bucket per key.

    Args:
        per_second: Tokens that flow into each bucket.
        burst: What a bucket holds at most.
        capacity: Number of buckets at most; beyond it the one used longest ago is forgotten.
    """

    def __init__(self, per_second: float, burst: float, capacity: int = 4096) -> None:
        self._per_us = per_second / 1e6
        self._burst = burst
        self._capacity = capacity
        self._level: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str, now_us: int, cost: float = 1.0) -> bool:
        """Return whether *key* had *cost* tokens at *now_us*, and take them if so."""
        level, last = self._level.pop(key, (self._burst, now_us))
        level = min(self._burst, level + max(0, now_us - last) * self._per_us)
        allowed = level >= cost
        self._level[key] = (level - cost if allowed else level, now_us)
        if len(self._level) > self._capacity:
            self._level.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        return len(self._level)
