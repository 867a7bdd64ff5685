"""What is fuzzed of joining and of the root: tokens, requests, answers, shares and the root's successors, as strangers hand them over."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from enjin.canonical import canonical
from keys.ceremony import hold_ceremony
from keys.frame import open_frame
from keys.joining import parse_token, read_answer, read_request, sign_request
from keys.shares import FILE_MAX, open_root, read_share
from keys.succession import RootChain
from keys.trust import TrustSet
from tests.keys.test_joining import OURS, PARENT, TOKEN, publics, request
from tests.keys.test_shares import CLOSED, NOW, YEAR, nobody
from tests.keys.test_succession import ROOT, TWO


@functools.cache
def asked() -> bytes:
    """Return the request to which the answer is."""
    return sign_request(request(), TOKEN, OURS.message)


@functools.cache
def answered() -> bytes:
    """Return the rightful answer."""
    return PARENT.answer(asked(), publics(OURS))


def run_token(data: bytes) -> None:
    """A token that is read has one spelling."""
    text = data.decode("utf-8", "replace")
    if parse_token(text).text != text.strip():
        raise AssertionError("a join token has two spellings")


def run_request(data: bytes) -> None:
    """A request that is proven is one that the keys in it have signed."""
    if read_request(data)[0] != request():
        raise AssertionError("a request that nobody signed was taken")


def run_answer(data: bytes) -> None:
    """An answer that is believed is the parent's own."""
    trust, _digest = read_answer(data, TOKEN, open_frame(asked()), publics(OURS))
    if open_frame(data).digest != open_frame(answered()).digest or trust.cloud != PARENT.trust.cloud:
        raise AssertionError("an answer that the parent did not sign was believed")


@functools.cache
def three() -> tuple[bytes, ...]:
    """Return the files of a ceremony's shares, and one that is closed."""
    return tuple(canonical(share) for share in (*hold_ceremony(NOW, NOW + YEAR), CLOSED[0]))


def run_share(data: bytes) -> None:
    """A file that is taken for a share has one spelling, and one alone opens no root."""
    with tempfile.TemporaryDirectory(prefix="enjfuzz") as folder:
        path = Path(folder) / "share-1.key"
        path.write_bytes(data[: FILE_MAX + 1])
        path.chmod(0o600)
        share = read_share(path)
    if canonical(share) != data:
        raise AssertionError("a share has two spellings")
    if share.lock is None:
        open_root([share], nobody, NOW)
        raise AssertionError("one share opened a root")


def run_successor(data: bytes) -> None:
    """A statement that is taken after the first is the one that old and new keys signed."""
    chain = RootChain(ROOT)
    if chain.take(data) and chain.digests[-1] != open_frame(TWO).digest:
        raise AssertionError("a root that nobody signed was taken")
    TrustSet(ROOT).follow_roots([data])
