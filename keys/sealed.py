"""The form of a sealed value, for whoever passes it on: what its bytes are, and whether a text can be one at all.

Owns the form and no cryptography: a decision asks here, so that a value that somebody forgot to seal never gets into a journal.

    sealed = b"ENS2" | 80 wrapped data key | 12 nonce | ciphertext | 16 tag                 as base64url without padding
"""

from __future__ import annotations

from typing import Final

from enjin.canonical import from_text
from enjin.errors import Invalid

MAGIC: Final = b"ENS2"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
WRAPPED_BYTES: Final = KEY_BYTES + 48
HEAD_BYTES: Final = len(MAGIC) + WRAPPED_BYTES + NONCE_BYTES


def is_sealed(text: str) -> bool:
    """Tell whether *text* has the form of a sealed value; whether it opens is its reader's matter."""
    try:
        data = from_text(text)
    except Invalid:
        return False
    return data.startswith(MAGIC) and len(data) >= HEAD_BYTES + TAG_BYTES
