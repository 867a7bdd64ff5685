"""Frames as standard DSSE JSON, for tools that are not ours.

Owns the translation in one direction: what we sign is DSSE's own pre-authentication encoding, so any DSSE verifier that
has the public key checks the same signature.

Source: DSSE v1.0.2, "envelope.md".
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from keys.frame import Frame, Signature


def to_dsse(payload_type: str, payload: bytes, signatures: Sequence[Signature]) -> dict[str, Any]:
    """Return the DSSE envelope of signed bytes, ready for JSON; key ids in hex, bytes in standard base64."""
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": str(one.key_id), "sig": base64.b64encode(one.signature).decode()} for one in signatures],
    }


def frame_to_dsse(frame: Frame) -> dict[str, Any]:
    """Return the DSSE envelope of *frame*."""
    return to_dsse(frame.type, frame.payload, frame.signatures)
