"""Signatures: bound to type and bytes, and refused for keys that would accept forgeries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.frame import GRANT, MESSAGE, TYPES, BadFrame, Frame, join, open_frame, seal
from keys.signing import BadKey, BadSignature, Signer, check_public, pae, verify

SIGNER = Signer.from_seed(bytes(range(32)))
ORDER = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@given(st.binary(max_size=300))
def test_signed_bytes_verify(payload: bytes) -> None:
    """What was signed verifies under the same type and key, and under no other type."""
    signature = SIGNER.sign(MESSAGE, payload)
    verify(SIGNER.public, MESSAGE, payload, signature)
    with pytest.raises(BadSignature):
        verify(SIGNER.public, GRANT, payload, signature)


def test_n01_one_bit_flipped_anywhere_is_refused() -> None:
    """N1: one flipped bit in type, payload, key id or signature, at every position, is refused."""
    data = seal(MESSAGE, b'{"a":1}', SIGNER)
    frame = open_frame(data)
    verify(SIGNER.public, frame.type, frame.payload, frame.signature)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                got = open_frame(bytes(damaged))
            except BadFrame:
                continue
            if got.key_id != frame.key_id:
                assert got.key_id != SIGNER.key_id
                continue
            with pytest.raises(BadSignature):
                verify(SIGNER.public, got.type, got.payload, got.signature)


def test_n05_small_order_and_malformed_keys_are_refused() -> None:
    """N5: keys of small order, in a second spelling or of the wrong length never enter."""
    assert check_public(SIGNER.public) == SIGNER.public
    for text in SMALL_ORDER:
        with pytest.raises(BadKey):
            check_public(bytes.fromhex(text))
    for length in (0, 31, 33):
        with pytest.raises(BadKey):
            check_public(b"\1" * length)


def test_n05_malleable_signature_is_refused() -> None:
    """N5: S + L, the second spelling of a signature, is refused."""
    signature = SIGNER.sign(MESSAGE, b"x")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    with pytest.raises(BadSignature):
        verify(SIGNER.public, MESSAGE, b"x", signature[:32] + scalar.to_bytes(32, "little"))


@given(st.sampled_from(sorted(TYPES)), st.binary(max_size=2000))
def test_frame_round_trip(kind: str, payload: bytes) -> None:
    """Opening a frame gives back exactly what was sealed."""
    frame = open_frame(seal(kind, payload, SIGNER))
    assert frame == Frame(kind, payload, frame.signatures)
    assert join(frame.type, frame.payload, frame.signatures) == seal(kind, payload, SIGNER)


@given(st.binary(max_size=400))
def test_n04_garbage_is_refused_as_a_frame(data: bytes) -> None:
    """N4: arbitrary bytes are refused with one error class, never a crash."""
    with pytest.raises(BadFrame):
        open_frame(data)


def test_n04_frames_of_the_wrong_length_are_refused() -> None:
    """N4: too long, cut short, or with bytes left over."""
    data = seal(MESSAGE, b"{}", SIGNER)
    with pytest.raises(BadFrame):
        open_frame(data, limit=len(data) - 1)
    with pytest.raises(BadFrame):
        open_frame(data + b"\0")
    for length in range(len(data)):
        with pytest.raises(BadFrame):
            open_frame(data[:length])


def test_pae_is_the_published_vector() -> None:
    """The encoding is DSSE's: the protocol's own example."""
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
