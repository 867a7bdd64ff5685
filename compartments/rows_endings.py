"""The row of a compartment's end: who wanted it destroyed, how far that is, and what was signed for it.

Owns the shape only. The row outlives the compartment: it says who destroyed it and why, and that its id is no compartment's any more.
"""

from __future__ import annotations

from typing import Final, Literal

from compartments.row import Row

EndingState = Literal["closing", "condemned", "destroyed", "kept"]


class Ending(Row):
    """How a compartment ends.

    ``closing``: nothing new is made in it, and it can still be kept; ``condemned``: its key is being destroyed, and there is no way
    back; ``destroyed``; or ``kept``, and ``why``. ``asked`` is the signed wish as base64url, ``given`` the signed approvals of
    ``request`` as they came to a ring that did not decide it; all empty once it is destroyed. Times are cloud time: ``since`` the wish
    was decided or heard of here, ``condemned`` and ``ended`` 0 until it is so.
    """

    KEY = ("compartment",)
    INDEX = ("state",)

    compartment: str
    name: str
    state: EndingState
    asker: str
    asked: str = ""
    request: str = ""
    given: tuple[str, ...] = ()
    reason: str = ""
    since: int = 0
    condemned: int = 0
    ended: int = 0
    why: str = ""


ROWS: Final = (Ending,)
