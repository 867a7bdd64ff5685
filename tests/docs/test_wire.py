"""`docs/wire.md` says what the code does: every field, type and code stands in it, in the code's own words."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from bus.envelope import Behalf, Statement
from bus.journal.entry import CommitStatement, Entry
from bus.messages import Reply
from bus.replay import TTL_CAPS_MS
from bus.stages import STAGES
from keys.beacon import Beacon, Head
from keys.frame import BULK_MAX, FRAME_MAX, TYPES
from keys.grants import Grant, PublicKeys
from keys.joining import Joined, JoinRequest
from keys.operator import OperatorKey
from keys.revocation import Revocation
from keys.root import RootStatement

TEXT = (Path(__file__).resolve().parents[2] / "docs/wire.md").read_text(encoding="utf-8")
SHAPES = (
    Statement, Behalf, Reply, Grant, PublicKeys, RootStatement, JoinRequest,
    Joined, OperatorKey, Entry, CommitStatement, Revocation, Beacon, Head,
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_field_is_described(shape: type[msgspec.Struct]) -> None:
    """A stranger finds each field that is signed or read, by its name on the wire."""
    missing = [field.encode_name for field in msgspec.structs.fields(shape) if not re.search(rf"[`\"]{field.encode_name}[`\"]", TEXT)]
    assert missing == []


def test_every_type_stage_and_bound_is_described() -> None:
    """The payload types, the code of each stage, how long each class of message may live, and how large a frame may be."""
    kinds = [name.removeprefix("application/vnd.enjin.").removesuffix(".v1+json") for name in TYPES]
    assert [kind for kind in kinds if f"`{kind}`" not in TEXT] == []
    assert [stage.code for stage in STAGES if stage.code not in TEXT] == []
    assert [f"{cap:,}" for cap in TTL_CAPS_MS.values() if f"{cap:,}" not in TEXT] == []
    assert [f"{limit:,}" for limit in (FRAME_MAX, BULK_MAX) if f"{limit:,}" not in TEXT] == []
