"""Shredding a compartment's secrets: the words in which it is asked for, the same for whoever asks.

Owns the wishes and the question. What becomes of them is ring 1's matter, which holds the key; the command line asks from
ring 0's side and imports nothing of ring 1.
"""

from __future__ import annotations

from bus.messages import Command, Query


class ShredSecrets(Command, kind="compartment.shred"):
    """Destroy the key to every secret of a compartment: values in journals and backups become unreadable for ever.

    Fields:
        confirm: The compartment's name again.
    """

    compartment: str
    confirm: str


class RenewKey(Command, kind="compartment.new-key"):
    """Make a new key for a compartment whose old one was shredded."""

    compartment: str


class ShowSecrets(Query, kind="compartment.secrets", kw_only=True):
    """Whether a compartment's secrets can be read, and which apps hold any."""

    compartment: str
