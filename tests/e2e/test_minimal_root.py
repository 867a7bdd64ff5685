"""On a machine that has nothing, `./bootstrap` ends with a URL that answers, and `enjin down --destroy` leaves nothing.

In the order a new user would go: as root, again, down; then as an unprivileged user with no isolation promised.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cloud import ROOT
from tests.e2e.minimal_root import UNPROVEN, Root, clone_checkout, minimal_root
from tests.readme import difference, script, steps

CHECKOUT = "/root/enjin"
GET = (
    "import http.client, sys, urllib.parse\n"
    "url = urllib.parse.urlsplit(sys.argv[1])\n"
    "link = http.client.HTTPConnection('127.0.0.1', url.port, timeout=10)\n"
    "link.request('GET', url.path or '/', headers={'Host': url.netloc})\n"
    "print(link.getresponse().status)\n"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.skipif(
        not (os.environ.get("ENJIN_TEST_MINIMAL") or os.environ.get("CI")),
        reason="takes a minute or two; run by CI, and by ./bootstrap test --minimal",
    ),
]


@pytest.fixture(scope="module")
def root() -> Iterator[Root]:
    """The root with a clean clone of the last commit in it."""
    with minimal_root() as made:
        clone_checkout(made, CHECKOUT)
        yield made


def things(root: Root) -> set[str]:
    """Return what lies where enjin puts things, and the processes that run, inside the root."""
    places = "/var/lib/enjin* /run/enj* /usr/local/bin/enjin /root/.config/enjin /sys/class/net/enj* /run/netns/*"
    listed = root.run("sh", "-c", f"ls -d {places} 2>/dev/null")
    running = root.run("sh", "-c", "for f in /proc/[0-9]*; do tr '\\0' ' ' <$f/cmdline; echo; done")
    ours = ("enjin", "haproxy", "supervision")
    commands = {line for line in running.stdout.splitlines() if any(word in line for word in ours)}
    return set(listed.stdout.split()) | commands


def url_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the URL that bootstrap printed."""
    found = re.search(r"^http://\S+$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return found.group(0)


def status_of(root: Root, url: str) -> str:
    """Return the status with which *url* answers inside the root."""
    return root.run(f"{CHECKOUT}/.venv/bin/python", "-c", GET, url).stdout.strip()


def walk(root: Root, checkout: str, user: int, home: str) -> None:
    """Type the README's tour, as it is written, in the terminal of *user*."""
    assert root.run("apt-get", "install", "-q", "-y", "--no-install-recommends", "curl").returncode == 0
    place = f"{home}/.place"
    root.run("sh", "-c", 'echo "$HOME" >"$0"', place, user=user, home=home)
    for step in steps((ROOT / "README.md").read_text(encoding="utf-8")):
        command = f"PATH={checkout}/.venv/bin:$PATH\nexec 2>&1\n{script(step.command, place)}"
        done = root.run("bash", "-c", command, user=user, home=home)
        wrong = difference(step.expected, done.stdout)
        assert (done.returncode, wrong) == (0, ""), f"README.md line {step.line}: $ {step.command}\n{wrong}\nprinted:\n{done.stdout}"


def test_nothing_is_there(root: Root) -> None:
    """The root really is a new machine: no Python, no git, no curl, nothing of ours."""
    for tool in ("python3", "git", "curl", "haproxy", "bwrap"):
        assert root.run("sh", "-c", f"command -v {tool}").returncode != 0, tool
    assert things(root) == set()


def test_bootstrap_ends_with_a_url_that_answers(root: Root) -> None:
    """One command on a new machine: a cloud, an app, a URL, and what to try next; no service of a package runs."""
    began = time.monotonic()
    done = root.run("./bootstrap", cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stderr.write(f"cold ./bootstrap in a minimal root: {time.monotonic() - began:.1f} s\n{done.stderr}")
    assert status_of(root, url_of(done)) == "200"
    assert "Try next:" in done.stdout
    assert root.run("readlink", "/usr/local/bin/enjin").stdout == f"{CHECKOUT}/.venv/bin/enjin\n"
    assert root.run("test", "-e", "/usr/sbin/policy-rc.d").returncode == 1
    assert root.run("sh", "-c", "ls /run/haproxy.pid /run/haproxy/admin.sock").returncode != 0


def test_a_second_bootstrap_has_nothing_to_set_up(root: Root) -> None:
    """Once more: nothing is installed, the cloud stands, the URL answers."""
    done = root.run("./bootstrap", cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are there" in done.stderr
    assert "is up to date" in done.stderr
    assert status_of(root, url_of(done)) == "200"


def test_destroy_leaves_the_machine_as_it_was(root: Root) -> None:
    """`enjin down --destroy` leaves no process, folder, link or command; packages and checkout stay."""
    tag = json.loads(root.run("enjin", "status", "--json").stdout)["cloud"][:6]
    groups = f"/sys/fs/cgroup/*/enjin-{tag}"
    assert glob.glob(groups) != []
    done = root.run("enjin", "down", "--destroy", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert things(root) == set()
    assert glob.glob(groups) == []
    assert root.run("test", "-d", f"{CHECKOUT}/.venv").returncode == 0


def test_an_unprivileged_user_gets_a_cloud_too(root: Root) -> None:
    """The same command without root, in process mode."""
    user, home = 1000, "/home/someone"
    assert root.run("useradd", "--create-home", "--uid", str(user), "someone").returncode == 0
    clone_checkout(root, f"{home}/enjin", user)
    done = root.run("./bootstrap", cwd=f"{home}/enjin", user=user, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status_of(root, url_of(done)) == "200"
    walk(root, f"{home}/enjin", user, home)
    down = root.run(f"{home}/enjin/.venv/bin/enjin", "down", "--destroy", "--yes", user=user, home=home)
    assert down.returncode == 0, down.stdout + down.stderr
    assert things(root) == set()


def test_what_this_does_not_prove(root: Root) -> None:
    """It says so itself."""
    sys.stderr.write("\n".join(("not proven by the minimal root:", *(f"  - {line}" for line in UNPROVEN), "")))
    assert os.readlink("/proc/self/ns/user") == root.run("readlink", "/proc/self/ns/user").stdout.strip()
