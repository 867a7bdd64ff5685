"""The audit service of ring 0: its journal's queries, for the daemon that holds the journal.

Owns the name under which ring 0 answers; the queries are the same in every ring (``compartments.audit``).
"""

from __future__ import annotations

from typing import Final

from bus.messages import Question
from compartments.audit import Told, questions

DOMAIN: Final = "ring0"


def table(journal: Told) -> tuple[Question, ...]:
    """Return the rows of the closed table that answer from ring 0's *journal*."""
    return questions(journal, DOMAIN, 0)
