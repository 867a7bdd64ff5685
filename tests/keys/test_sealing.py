"""Sealed secrets: AES-256-GCM under a data key of their own, bound to their place, and gone with the compartment's key."""

from __future__ import annotations

import sys
import traceback

import pytest
from nacl.exceptions import UnavailableError
from nacl.public import PrivateKey, SealedBox

from enjin.canonical import from_text, to_text
from keys import aead
from keys.keyring import KeyPair
from keys.sealed import HEAD_BYTES, MAGIC, NONCE_BYTES, TAG_BYTES, WRAPPED_BYTES, is_sealed
from keys.sealing import Unsealable, open_value, seal_value

SECRET = bytes(range(32))
PAIR, PLACE, CANARY = KeyPair(SECRET), "default/hello/TOKEN", "canary-9f2c-value"
FIRST = (
    "LInBMq3rdAZWo_xJr1l9qZQwOuaKuK6WAPz0KqJVPkop-8u2TaS16ReWoOG9Ju5yZ1ikfM3q22L2t-uP1WyFNBCz_ZCXfQeQDea-tWxxz2KIxuRrL67d3kJluDlCB-YR"
    "TM4qWtrUfhheyuzDDg"
)
SECOND = (
    "RU5TMliOqJdxZfX0UTz2BluM_TL9-n_iX3T-SpkYHXXlmih75vDMD4wz-gpGOWFREIpxPAmX2tiZogzJ2dZhqx-9FnmaBfo4Ho_ECBb4-0swkezi1HrMNNoPO8_O_ekfOP2V"
    "LoAlIyAmEHReL53h9Nm97CtlHOXvZzgpfTdO_yAQfvAn"
)
# D. McGrew and J. Viega, "The Galois/Counter Mode of Operation (GCM)", test case 16.
KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
NONCE = bytes.fromhex("cafebabefacedbaddecaf888")
PLAIN = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
BESIDE = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
SEALED = bytes.fromhex(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
    "76fc6ece0f4e1768cddf8853bb2d551b"
)


def ciphers() -> list[aead.Cipher]:
    """Return both where the processor has the instructions, else the one that does without."""
    try:
        return [aead.from_libsodium(), aead.from_openssl()]
    except UnavailableError:
        return [aead.from_openssl()]


@pytest.mark.parametrize("cipher", ciphers(), ids=lambda cipher: cipher.encrypt.__qualname__.partition(".")[0])
def test_the_cipher_is_aes_256_gcm(cipher: aead.Cipher) -> None:
    """The published vector comes out and goes back; one bit of key, nonce, data, tag or associated data changed and it is refused."""
    assert cipher.encrypt(KEY, NONCE, PLAIN, BESIDE) == SEALED
    assert cipher.decrypt(KEY, NONCE, SEALED, BESIDE) == PLAIN
    for at, part in enumerate((KEY, NONCE, SEALED, BESIDE)):
        for place in (0, len(part) - 1):
            given = [KEY, NONCE, SEALED, BESIDE]
            given[at] = part[:place] + bytes([part[place] ^ 1]) + part[place + 1 :]
            with pytest.raises(aead.NotAuthentic):
                cipher.decrypt(*given)
    with pytest.raises(aead.NotAuthentic):
        cipher.decrypt(KEY, NONCE, SEALED[: TAG_BYTES - 1], BESIDE)


def test_a_machine_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library is taken where it is installed, and opens what was sealed elsewhere; without it, it is said what to install."""
    monkeypatch.setattr(aead, "from_libsodium", _unavailable)
    aead.cipher.cache_clear()
    try:
        assert aead.cipher().encrypt(KEY, NONCE, PLAIN, BESIDE) == SEALED
        assert open_value(PAIR, PLACE, SECOND) == "from the second form"
        aead.cipher.cache_clear()
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
        with pytest.raises(aead.NoCipher) as refused:
            seal_value(PAIR.public, PLACE, CANARY)
        assert (refused.value.code, "cryptography" in refused.value.hint) == ("E-SEA-002", True)
    finally:
        aead.cipher.cache_clear()


def _unavailable() -> aead.Cipher:
    raise UnavailableError("no such instructions")


def test_what_was_sealed_once_opens_for_ever() -> None:
    """Both forms that journals hold: the sealed box of the first days, and the one that is written now."""
    assert open_value(PAIR, PLACE, FIRST) == "from the first form"
    assert open_value(PAIR, PLACE, SECOND) == "from the second form"
    for text in (FIRST, SECOND):
        with pytest.raises(Unsealable):
            open_value(PAIR, "default/other/TOKEN", text)


def test_a_stranger_opens_it_as_it_is_written_down() -> None:
    """The form as docs/wire.md has it, with other libraries: 4 magic, 80 wrapped key, 12 nonce, ciphertext and tag; the place beside it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    data = from_text(seal_value(PAIR.public, PLACE, CANARY))
    assert data[:4] == b"ENS2"
    key = SealedBox(PrivateKey(SECRET)).decrypt(data[4:84])
    beside = b'{"generation":"' + PAIR.public.hex().encode() + b'","place":"default/hello/TOKEN"}'
    assert AESGCM(key).decrypt(data[84:96], data[96:], beside) == CANARY.encode()
    assert len(data) == HEAD_BYTES + len(CANARY) + TAG_BYTES


def test_no_nonce_and_no_data_key_is_used_twice() -> None:
    """The same value sealed to the same place is other bytes each time, in every part."""
    made = [from_text(seal_value(PAIR.public, PLACE, CANARY)) for _ in range(500)]
    head = len(MAGIC) + WRAPPED_BYTES
    for part in (slice(4, head), slice(head, head + NONCE_BYTES), slice(head + NONCE_BYTES, None)):
        assert len({data[part] for data in made}) == len(made)
    keys = {SealedBox(PrivateKey(SECRET)).decrypt(data[4:84]) for data in made}
    assert len(keys) == len(made)


def test_every_byte_counts() -> None:
    """INV-SEA-1: any byte changed, cut off or added, another place or another generation of the key: refused, with nothing of the value."""
    text = seal_value(PAIR.public, PLACE, CANARY)
    data = from_text(text)
    broken = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    broken += [data[:length] for length in range(0, len(data), 7)] + [data + b"\0"]
    others = [
        (PAIR, f"{PLACE}S", text),
        (PAIR, "other/hello/TOKEN", text),
        (PAIR, "default/hallo/TOKEN", text),
        (KeyPair(bytes(31) + b"\1"), PLACE, text),
    ]
    for pair, place, given in [*((PAIR, PLACE, to_text(one)) for one in broken), *others, (PAIR, PLACE, "not base64url!")]:
        with pytest.raises(Unsealable) as refused:
            open_value(pair, place, given)
        assert CANARY not in "".join(traceback.format_exception(refused.value))
    assert open_value(PAIR, PLACE, text) == CANARY


def test_a_wrapped_key_cannot_be_carried_elsewhere() -> None:
    """Parts of two sealed values put together open nothing: each data key fits its own value and place alone."""
    one, other = (from_text(seal_value(PAIR.public, place, CANARY)) for place in (PLACE, "default/hello/OTHER"))
    head = len(MAGIC) + WRAPPED_BYTES
    for mixed in (one[:head] + other[head:], other[:head] + one[head:], one[: head + NONCE_BYTES] + other[head + NONCE_BYTES :]):
        with pytest.raises(Unsealable):
            open_value(PAIR, PLACE, to_text(mixed))


def test_what_has_the_form() -> None:
    """What was sealed has it; clear text, also such as happens to be base64url, and what is too short have not."""
    assert is_sealed(seal_value(PAIR.public, PLACE, ""))
    short = to_text(MAGIC + bytes(HEAD_BYTES - len(MAGIC) + TAG_BYTES - 1))
    assert [is_sealed(text) for text in ("", "hunter22", "clear text", "ab" * 100, FIRST, short)] == [False] * 6
