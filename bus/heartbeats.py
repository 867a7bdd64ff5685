"""How often a broker asks whether its participants are still there: less often, the more of them there are.

Pure. Every beat costs the broker and the participant an encrypted message each; a fixed rhythm would leave a hub of ten thousand
no time for anything else. The broker alone sets the rhythm, so that participants need not know how many they are.

Source: docs/decisions/0021.
"""

from __future__ import annotations

from typing import Final

BEAT_S: Final = 2
FAST_MAX: Final = 1000
BEAT_MAX_S: Final = 20  # three of them fit in the time to live that a ZMTP PING can carry (65 s as libzmq reads it)
MISSED_MAX: Final = 3


def beat_s(participants: int) -> int:
    """Return the whole seconds between two beats to each of *participants*: 2 for up to 1,000, then in proportion, 20 at most."""
    return min(BEAT_MAX_S, BEAT_S * max(1, -(-participants // FAST_MAX)))


def silence_s(beat: int) -> int:
    """Return for how many seconds who was asked, each *beat* seconds, may say nothing: asked after one beat, dead after ``MISSED_MAX``."""
    return (MISSED_MAX - 1) * beat
