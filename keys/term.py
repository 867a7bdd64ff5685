"""Until when a grant counts, and before whom: before others until its expiry, in its holder's own domain for its autonomy. Pure.

Owns this one rule, how long a node's grant is made for, and when it is renewed. Whoever receives names the domain in which it stands
itself (a domain is called by its decider's subject), and nothing where it stands outside: the ring above hears a domain's channel too,
and stands outside. Does not verify anything.

INV-TRM-1: before whoever stands outside the holder's domain no grant counts after its expiry.
INV-TRM-2: inside it a grant counts for the autonomy that its issuer signed, counted from ``not_before``, and not longer; so does what
hangs from it, unless that decides a domain of its own.
INV-TRM-3: a chain counts while each of its links does, so nothing outlives what it hangs from.
INV-TRM-4: when a grant is renewed follows from the grant alone: a restart neither hastens nor delays it, and nodes do not keep step.

Source: DESIGN 8; THREATS B7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from keys.grants import Grant

OUTSIDE: Final = ""
LIFE_US: Final = 3_600_000_000
AUTONOMY_US: Final = 86_400_000_000
SPREAD: Final = 10  # a tenth of the half, either way


def end_at_home(grant: Grant) -> int:
    """Return when *grant* ends in its holder's own domain, microseconds of cloud time: never before its expiry."""
    return max(grant.expiry, grant.not_before + grant.autonomy)


def ends(chain: Sequence[Grant], home: str) -> Iterator[int]:
    """Yield when each link of *chain* ends before a receiver that stands in domain *home*.

    Args:
        chain: The grants of one chain, the leaf first, the root's own last.
        home: The subject whose domain it is; ``OUTSIDE``: the receiver stands in no domain of the signer's.

    Yields:
        Microseconds of cloud time, the root's own grant first.
    """
    inside = False
    for grant in reversed(chain):
        # What holds a journal key decides a domain of its own: the one above it is no home to it.
        inside = bool(home) and (grant.subject == home or (inside and not grant.keys.journal))
        yield end_at_home(grant) if inside else grant.expiry


def renewal(grant: Grant, digest: str) -> int:
    """Return when *grant*, whose hash is *digest*, is to be renewed: at half its life, plus or minus a tenth of that half.

    Microseconds of cloud time; which of them in the tenth the hash says.
    """
    half = (grant.expiry - grant.not_before) // 2
    spread = half // SPREAD
    return grant.not_before + half - spread + int(digest[:16], 16) % (2 * spread + 1)
