"""Salt's round trip: one master, one minion or more, `test.ping` of all from a connected client, all on loopback.

Run by the interpreter of Salt's own environment: `python salt_ping.py FOLDER PORT COUNT [MINIONS]` prints the milliseconds of COUNT
pings as a JSON array. Owns the master and the minions that it starts; imports nothing of enjin.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

UP_S = 240.0


def configure(folder: Path, port: int, minions: list[str]) -> None:
    """Write the configuration of a master and of *minions* that keep to *folder* and loopback."""
    common = "log_level: error\nuser: root\n"
    master = f"interface: 127.0.0.1\npublish_port: {port}\nret_port: {port + 1}\nauto_accept: true\nworker_threads: 2\n"
    minion = f"master: 127.0.0.1\nmaster_port: {port + 1}\npublish_port: {port}\nacceptance_wait_time: 1\n"
    for name in ("master", *minions):
        own = folder / "of" / name
        own.mkdir(parents=True)
        text = f"{common}root_dir: {own}\nlog_file: {own}/log\n" + (master if name == "master" else f"{minion}id: {name}\n")
        (own / ("master" if name == "master" else "minion")).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def running(folder: Path, minions: list[str]):  # type: ignore[no-untyped-def]
    """Run the master and the minions."""
    programs = Path(sys.executable).parent
    started = []
    try:
        for name in ("master", *minions):
            words = [programs / ("salt-master" if name == "master" else "salt-minion"), "-c", folder / "of" / name]
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


def pings_ms(folder: Path, count: int, minions: list[str]) -> list[float]:
    """Return the milliseconds of *count* pings, once every one of *minions* answers.

    Raises:
        TimeoutError: One never did.
    """
    import salt.client
    import salt.exceptions

    deadline = time.monotonic() + UP_S
    answered: object = None
    master = str(folder / "of" / "master" / "master")
    everybody = dict.fromkeys(minions, True)
    while answered != everybody:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not every minion answers: {answered}"[:100])
        with contextlib.suppress(salt.exceptions.SaltException):
            client = salt.client.LocalClient(c_path=master)  # one that was made before the master answers never does
            answered = client.cmd("*", "test.ping", timeout=2)
        time.sleep(0.1)
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        answered = client.cmd("*", "test.ping", timeout=10)
        taken.append(1000 * (time.perf_counter() - began))
        if answered != everybody:
            raise TimeoutError("a minion does not answer")
    return taken


def main(folder: Path, port: int, count: int, minions: int) -> None:
    """Measure and print."""
    names = [f"m{number}" for number in range(minions)]
    configure(folder, port, names)
    with running(folder, names):
        taken = pings_ms(folder, count, names)
    print(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
