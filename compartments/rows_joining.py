"""Rows about join tokens: what each allows, and what became of it.

Owns the shape only. No secret stands here: ``secret_hash`` is the id of the key that is made from it.
"""

from __future__ import annotations

from typing import Final

from compartments.row import RoleName, Row


class JoinToken(Row):
    """A token for one use.

    ``name`` is the account that whoever joins gets; ``allowed`` the verb families of its grant, separated by spaces. ``machine`` and
    ``source`` (a network) are what is expected of it; "" expects nothing. Times: 0 is never. ``key`` and ``request`` say who used
    it and by which request (a hash), ``grant`` what they got; ``misused`` when another key came with it, which is ``second``.
    """

    INDEX = ("secret_hash",)

    id: str
    name: str
    ring: int
    role: RoleName
    compartment: str
    allowed: str
    secret_hash: str
    by: str
    created: int
    expires: int
    machine: str = ""
    source: str = ""
    revoked: int = 0
    used: int = 0
    key: str = ""
    request: str = ""
    grant: str = ""
    misused: int = 0
    second: str = ""


ROWS: Final = (JoinToken,)
