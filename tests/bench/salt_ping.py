"""Salt's round trip: one master, one minion, `test.ping` from a connected client, all on loopback.

Run by the interpreter of Salt's own environment: `python salt_ping.py FOLDER PORT COUNT` prints the milliseconds of COUNT pings as a JSON
array. Owns the master and the minion that it starts; imports nothing of enjin.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

UP_S = 90.0


def configure(folder: Path, port: int) -> None:
    """Write the configuration of a master and a minion that keep to *folder* and loopback."""
    common = f"root_dir: {folder}\nlog_file: {folder}/log\nlog_level: error\nuser: root\n"
    master = f"{common}interface: 127.0.0.1\npublish_port: {port}\nret_port: {port + 1}\nauto_accept: true\nworker_threads: 2\n"
    minion = f"{common}master: 127.0.0.1\nmaster_port: {port + 1}\npublish_port: {port}\nid: one\nacceptance_wait_time: 1\n"
    for name, text in (("master", master), ("minion", minion)):
        (folder / name).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def running(folder: Path):  # type: ignore[no-untyped-def]
    """Run the master and the minion."""
    programs = Path(sys.executable).parent
    started = []
    try:
        for name in ("salt-master", "salt-minion"):
            words = [programs / name, "-c", folder]
            started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()


def pings_ms(folder: Path, count: int) -> list[float]:
    """Return the milliseconds of *count* pings, once the minion answers.

    Raises:
        TimeoutError: It never did.
    """
    import salt.client
    import salt.exceptions

    deadline = time.monotonic() + UP_S
    answered: object = None
    while answered != {"one": True}:
        if time.monotonic() > deadline:
            raise TimeoutError("the minion does not answer")
        with contextlib.suppress(salt.exceptions.SaltException):
            client = salt.client.LocalClient(c_path=str(folder / "master"))  # one that was made before the master answers never does
            answered = client.cmd("one", "test.ping", timeout=2)
        time.sleep(0.1)
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        answered = client.cmd("one", "test.ping", timeout=10)
        taken.append(1000 * (time.perf_counter() - began))
        if answered != {"one": True}:
            raise TimeoutError("the minion does not answer")
    return taken


def main(folder: Path, port: int, count: int) -> None:
    """Measure and print."""
    configure(folder, port)
    with running(folder):
        taken = pings_ms(folder, count)
    print(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
