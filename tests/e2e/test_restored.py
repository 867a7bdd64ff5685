"""An old copy of a journal is put back: what was revoked since stays dead, and the ring says what to do."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from compartments.history import GetHead
from enjin.errors import EnjinError
from ring0.keys import RevokeKey
from tests.attacks.voices import Voices
from tests.e2e.clouds import BACK_S, Raised, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


def put(files: list[Path], folder: Path) -> None:
    """Copy *files* into *folder* with owners and modes."""
    folder.mkdir(exist_ok=True)
    for file in files:
        shutil.copy2(file, folder / file.name)
        shutil.chown(folder / file.name, file.stat().st_uid, file.stat().st_gid)


def wrote(cloud: Raised, word: str) -> bool:
    """Whether ring 1's daemon, which may not run yet, has written *word*."""
    with contextlib.suppress(OSError, EnjinError):
        return word in cloud.written(1)
    return False


def test_n36_a_restored_journal_does_not_revive_a_revoked_key(fresh_cloud: Raised, tmp_path: Path) -> None:
    """N36: ring 1 refuses the copy of last week; repaired from ring 0's, it still refuses the key. Its valid twin: an unchanged journal."""
    cloud, backup = fresh_cloud, tmp_path / "backup"
    with Voices(cloud) as voices:
        second = voices.second_operator()
        asks = lambda: voices.post(1, voices.frame(1, GetHead(), second)).status  # noqa: E731
        wait_for(lambda: asks() == 200, BACK_S, "ring 1 to know the second key")
        journal = cloud.journal(1)
        cloud.run("node", "stop", "ring1", "--reason", "a backup")
        put([file for file in journal.parent.glob("journal.db*") if not file.name.endswith(".lock")], backup)
        cloud.run("node", "start", "ring1", "--reason", "the backup is made")
        wait_for(lambda: asks() == 200, BACK_S, "ring 1 to serve again from an unchanged journal")
        voices.command(0, RevokeKey(key=str(second.keyring.message.key_id), reason="lost"))
        wait_for(lambda: asks() == 401, BACK_S, "ring 1 to hear of the revocation")
        copied = wait_for(lambda: cloud.json("status")["journals"][1], BACK_S, "both journals")["number"]
        wait_for(lambda: cloud.json("status")["journals"][1]["witnessed"] >= copied, BACK_S, "ring 0 to have copied it")
        cloud.run("node", "stop", "ring1", "--reason", "a disaster")
        for file in journal.parent.glob("journal.db*"):
            if not file.name.endswith(".lock"):
                file.unlink()
        put(list(backup.iterdir()), journal.parent)
        cloud.run("node", "start", "ring1", "--detach", "--reason", "put back")
        wait_for(lambda: wrote(cloud, "E-JNL-014"), BACK_S, "ring 1 to say what is wrong")
        assert cloud.json("status")["journals"][0]["ring"] == 0
        assert len(cloud.json("status")["journals"]) == 1, "ring 1 served from an old copy"
        cloud.run("node", "stop", "ring1", "--reason", "to be repaired")
        assert cloud.json("audit", "repair")["restored"]
        cloud.run("node", "start", "ring1", "--reason", "whole again")
        wait_for(lambda: asks() == 401, BACK_S, "ring 1 to serve and refuse the key")
