"""Style is a test and not a review comment: sizes, imports, doors, banned words.

Every rule reads the tree as it is now, names each place that breaks it, and has a test of its own that it bites.
"""

from __future__ import annotations

import ast
import configparser
import gc
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("enjin", "keys", "bus", "compartments", "supervision", "ring0", "ring1", "ring2", "console")
MODULE_LINES_MAX = 300
FUNCTION_LINES_MAX = 60
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc", "tools"}
SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "build", "dist", "node_modules", ".mypy_cache", ".ruff_cache", ".hypothesis"}

# A package may import those on its left; rings and console stand side by side.
LAYERS = (("enjin",), ("keys",), ("bus",), ("compartments",), ("supervision",), ("ring0", "ring1", "ring2", "console"))

# Third-party library -> where alone it may be imported (path prefixes); `commands` stands for the command modules.
DOORS: dict[str, tuple[str, ...]] = {
    "nacl": ("keys/",),
    "cryptography": ("keys/",),
    "zmq": ("bus/over_zmq", "bus/hub"),  # the hub is the other half of over_zmq
    "nats": ("bus/over_nats",),
    "libvirt": ("supervision/vm",),
    "pyroute2": ("supervision/network",),
    "iptc": ("supervision/firewall",),
    "pyseccomp": ("supervision/seccomp",),
    "click": ("enjin/cli", "enjin/output", "commands"),
    "sqlalchemy": ("bus/journal", "compartments/"),
    "psycopg": ("bus/journal/postgres",),
    "starlette": ("bus/http", "console/"),
    "uvicorn": ("bus/http", "console/"),
    "httptools": ("bus/http",),
    "uvloop": ("bus/http", "enjin/daemon"),
    "structlog": ("enjin/log",),
}

# What may be called only where; the empty tuple means nowhere.
CALLS: dict[str, tuple[str, ...]] = {
    "eval": (),
    "exec": (),
    "compile": (),
    "__import__": (),
    "os.system": (),
    "os.popen": (),
    "os.urandom": ("enjin/host.py",),
    "time.time": ("enjin/host.py",),
    "time.time_ns": ("enjin/host.py",),
    "time.clock_gettime": ("enjin/host.py", "supervision/init"),
    "datetime.now": (),
    "datetime.utcnow": (),
    "datetime.today": (),
    "datetime.datetime.now": (),
    "datetime.datetime.utcnow": (),
    "tempfile.mktemp": (),
    "yaml.load": (),
    "asyncio.create_subprocess_shell": (),
    "subprocess.getoutput": (),
    "subprocess.getstatusoutput": (),
}
IMPORTS: dict[str, tuple[str, ...]] = {
    "pickle": (),
    "marshal": (),
    "shelve": (),
    "dill": (),
    "cloudpickle": (),
    "uuid": ("enjin/host.py",),
    "secrets": ("enjin/host.py",),
    "zmq.asyncio": (),
    "pty": (),
}
# Words that no product file holds at all, not even in a string.
WORDS = {
    "shell=True": re.compile(r"\bshell\s*=\s*True\b"),
    "verify=False": re.compile(r"\bverify\s*=\s*False\b"),
    "CURVE_ALLOW_ANY": re.compile(r"\bCURVE_ALLOW_ANY\b"),
    "recv_pyobj": re.compile(r"\b(recv|send)_pyobj\b"),
    "insecure": re.compile(r"insecure", re.IGNORECASE),
    "an unfinished mark": re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bNotImplementedError\b"),
}
# Spelled in pieces, so that this file does not break its own rule.
REGISTRIES = re.compile(
    "|".join(
        host + r"\." + end
        for host, end in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), (r"deb\.debian", "org"), (r"proxy\.golang", "org"))
    )
)
WORKPLACE = re.compile(r"(?<![\w.])/" + r"work/(?!dir)[a-z.]+|/root/\.pyenv|/opt/(pypi|wheels)")
ISSUES = re.compile(r"\b(issue|ticket|pull request|PR|GH)s?[ -]#?\d+\b|(?<![\w&/(\[:'\"])#\d+\b(?![;\w])", re.IGNORECASE)


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Return the checkout's files with one of *suffixes* (all when none), build products left out."""
    found = []
    for folder, names, here in os.walk(ROOT):
        names[:] = sorted(name for name in names if name not in SKIPPED_FOLDERS and not name.endswith(".egg-info"))
        found += [Path(folder) / name for name in sorted(here) if not suffixes or Path(name).suffix in suffixes]
    return tuple(found)


@cache
def modules() -> tuple[tuple[str, str, ast.Module], ...]:
    """Return (path, text, tree) of every product module."""
    found = []
    for path in files(".py"):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] in PACKAGES:
            text = path.read_text(encoding="utf-8")
            found.append((name, text, parse(text, name)))
    return tuple(found)


def parse(text: str, name: str) -> ast.Module:
    """Parse without a garbage collection in between.

    A collection may end a task that an earlier test forgot, whose traceback is then formatted, which parses in the midst of our
    parsing: CPython before 3.11.5 takes that for a fault of its own ("AST constructor recursion depth mismatch").
    """
    gc.disable()
    try:
        return ast.parse(text, name)
    finally:
        gc.enable()


@cache
def command_modules() -> tuple[str, ...]:
    """Return the paths of the modules that setup.cfg names under `enjin.commands`."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"].get("enjin.commands", "").splitlines()
    names = [line.partition("=")[2].partition(":")[0].strip() for line in lines if "=" in line]
    return tuple(name.replace(".", "/") for name in names)


def may(name: str, places: Iterable[str]) -> bool:
    """Tell whether the module at path *name* lies in one of *places*."""
    for place in places:
        if place == "commands":
            if name.startswith(command_modules()) or "commands" in Path(name).with_suffix("").parts:
                return True
        elif name.startswith(place):
            return True
    return False


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that *tree* imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def layer(package: str) -> int:
    """Return how far to the right *package* stands."""
    return next(number for number, names in enumerate(LAYERS) if package in names)


def check_sizes(name: str, text: str, tree: ast.Module) -> Iterator[str]:
    lines = text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{name}: {lines} lines, {MODULE_LINES_MAX} at most"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES_MAX:
                yield f"{name}:{node.lineno}: {node.name} has {size} lines, {FUNCTION_LINES_MAX} at most"


def check_docstring(name: str, _text: str, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield f"{name}: no module docstring"


def check_name(name: str, _text: str, _tree: ast.Module) -> Iterator[str]:
    for part in Path(name).with_suffix("").parts:
        if part in BANNED_NAMES or part.removesuffix("s") in BANNED_NAMES:
            yield f"{name}: {part} says nothing; name what it owns"


def check_layers(name: str, _text: str, tree: ast.Module) -> Iterator[str]:
    own = name.split("/")[0]
    for line, target in imports(tree):
        other = target.split(".")[0]
        if other not in PACKAGES or other == own:
            continue
        if layer(other) >= layer(own):
            yield f"{name}:{line}: {own} may not import {target}"


def check_doors(name: str, _text: str, tree: ast.Module) -> Iterator[str]:
    seen = set()
    for line, target in imports(tree):
        library = target.split(".")[0]
        if library in DOORS and not may(name, DOORS[library]) and (line, library) not in seen:
            seen.add((line, library))
            yield f"{name}:{line}: {library} may be imported only in {', '.join(DOORS[library])}"
        for banned, places in IMPORTS.items():
            if (target == banned or target.startswith(banned + ".")) and not may(name, places) and (line, banned) not in seen:
                seen.add((line, banned))
                yield f"{name}:{line}: {banned} may be imported only in {', '.join(places) or 'no module'}"


def check_calls(name: str, _text: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{name}:{node.lineno}: bare assert; use enjin.errors.invariant"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{name}:{node.lineno}: bare except"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS and not may(name, CALLS[called]):
                yield f"{name}:{node.lineno}: {called}() may be called only in {', '.join(CALLS[called]) or 'no module'}"
            elif called.startswith("random.") and not (called == "random.Random" and node.args):
                yield f"{name}:{node.lineno}: {called}() is not reproducible; random.Random(seed), or enjin.host for keys"


def check_words(name: str, text: str, _tree: ast.Module) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for word, pattern in WORDS.items():
            if pattern.search(line):
                yield f"{name}:{number}: {word}"


def check_init(name: str, _text: str, tree: ast.Module) -> Iterator[str]:
    if not re.fullmatch(r"supervision/init(\.py|/.*)", name):
        return
    for line, target in imports(tree):
        if target.split(".")[0] not in sys.stdlib_module_names and not f"{target}.".startswith("supervision.init."):
            yield f"{name}:{line}: init runs with the standard library alone, not with {target}"


RULES: tuple[Callable[[str, str, ast.Module], Iterator[str]], ...] = (
    check_sizes,
    check_docstring,
    check_name,
    check_layers,
    check_doors,
    check_calls,
    check_words,
    check_init,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removeprefix("check_"))
def test_n80_product_modules_keep(rule: Callable[[str, str, ast.Module], Iterator[str]]) -> None:
    """Every product module keeps the rule."""
    broken = [line for name, text, tree in modules() for line in rule(name, text, tree)]
    assert not broken, "\n" + "\n".join(broken)


def check_texts(name: str, text: str) -> Iterator[str]:
    """Yield what no file of the tree may hold, be it code, prose or data."""
    for number, line in enumerate(text.splitlines(), 1):
        if REGISTRIES.search(line):
            yield f"{name}:{number}: a package registry's host"
        if WORKPLACE.search(line):
            yield f"{name}:{number}: a path of one machine"
        if not name.endswith((".css", ".svg", ".html")) and not name.startswith("requirements/") and ISSUES.search(line):
            yield f"{name}:{number}: an issue's number"


def test_no_file_names_a_registry_a_workplace_or_an_issue() -> None:
    """The tree speaks of enjin alone and works on any machine."""
    broken = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        broken += check_texts(path.relative_to(ROOT).as_posix(), text)
    assert not broken, "\n" + "\n".join(broken)


def check_test_module(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield what no test may do: shell=True and sleeps long enough to be a guess."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == "shell" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
                yield f"{name}:{node.lineno}: a shell"
        slept = node.args[0] if node.args and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep") else None
        if isinstance(slept, ast.Constant) and isinstance(slept.value, int | float) and 0.25 < slept.value < 5:
            yield f"{name}:{node.lineno}: sleeps {slept.value} s; wait for a condition with a deadline"


def test_tests_wait_for_conditions() -> None:
    """No test sleeps instead of waiting for what it means, and none starts a shell."""
    broken = []
    for path in files(".py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("tests/"):
            broken += check_test_module(name, parse(path.read_text(encoding="utf-8"), name))
    assert not broken, "\n" + "\n".join(broken)


def test_every_test_says_its_rule() -> None:
    """Each test module has a docstring."""
    broken = []
    for path in files(".py"):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if name.startswith("tests/") and text.strip() and not ast.get_docstring(parse(text, name)):
            broken.append(f"{name}: no module docstring")
    assert not broken, "\n" + "\n".join(broken)


def test_package_list_is_the_tree() -> None:
    """Every package is named in setup.cfg, and every name there is a package."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    named = {line.strip() for line in parser["options"]["packages"].splitlines() if line.strip()}
    present = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in files(".py") if path.name == "__init__.py"}
    present = {name for name in present if name.split(".")[0] in PACKAGES}
    assert sorted(present) == sorted(named)


def test_requirements_are_pinned_with_hashes() -> None:
    """Every line of a requirement file is one version with hashes; no option, no address."""
    broken = []
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not re.fullmatch(r"#.*|[a-z0-9-]+==[0-9A-Za-z.]+( ; [^\\]+)? \\| {4}--hash=sha256:[0-9a-f]{64}( \\)?|", line):
                broken.append(f"{path.name}:{number}: {line}")
    assert not broken, "\n" + "\n".join(broken)


BAD: tuple[tuple[str, str, str], ...] = (
    ("sizes", "enjin/x.py", '"""d"""\n' + "x = 1\n" * 300),
    ("sizes", "enjin/x.py", "def f():\n" + "    x = 1\n" * 60),
    ("docstring", "enjin/x.py", "x = 1\n"),
    ("name", "bus/utils.py", ""),
    ("layers", "enjin/x.py", "import keys.trust\n"),
    ("layers", "ring1/x.py", "def f():\n    from ring0 import daemon\n"),
    ("layers", "ring1/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ring0 import daemon\n"),
    ("layers", "console/x.py", "import ring1.http\n"),
    ("doors", "bus/x.py", "from nacl.signing import SigningKey\n"),
    ("doors", "ring1/x.py", "import click\n"),
    ("doors", "keys/x.py", "import pickle\n"),
    ("doors", "bus/over_zmq.py", "from zmq import asyncio\n"),
    ("doors", "keys/x.py", "def f():\n    import uuid\n"),
    ("calls", "keys/x.py", "assert True\n"),
    ("calls", "keys/x.py", "eval('1')\n"),
    ("calls", "keys/x.py", "import time\ntime.time()\n"),
    ("calls", "keys/x.py", "import random\nrandom.randint(1, 2)\n"),
    ("calls", "keys/x.py", "import random\nrandom.Random()\n"),
    ("calls", "keys/x.py", "try:\n    pass\nexcept:\n    pass\n"),
    ("words", "keys/x.py", "run(a, shell=True)\n"),
    ("words", "keys/x.py", "get(url, verify = False)\n"),
    ("words", "keys/x.py", "option = 'Insecure'\n"),
    ("words", "keys/x.py", "auth.configure_curve(location=zmq.auth.CURVE_ALLOW_ANY)\n"),
    ("words", "keys/x.py", "socket.recv_pyobj()\n"),
    ("init", "supervision/init.py", "import msgspec\n"),
    ("init", "supervision/init.py", "from enjin import host\n"),
    ("init", "supervision/init/start.py", "from supervision.init_link import InitLink\n"),
)


@pytest.mark.parametrize(("rule", "name", "text"), BAD)
def test_rules_bite(rule: str, name: str, text: str) -> None:
    """Each rule finds what it is there to find."""
    check = next(check for check in RULES if check.__name__ == f"check_{rule}")
    assert list(check(name, text, ast.parse(text)))


GOOD: tuple[tuple[str, str, str], ...] = (
    ("layers", "ring1/x.py", "import supervision.init_link\nfrom keys import trust\n"),
    ("layers", "enjin/x.py", "from enjin.errors import Refused\n"),
    ("doors", "bus/over_zmq.py", "import zmq\n"),
    ("doors", "ring0/commands.py", "import click\n"),
    ("doors", "enjin/host.py", "import secrets, time\n"),
    ("calls", "enjin/host.py", "import time\ntime.time()\n"),
    ("calls", "bus/x.py", "import random\nrandom.Random(7)\n"),
    ("init", "supervision/init/start.py", "import os, json, selectors\nfrom supervision.init.loop import Loop\n"),
)


@pytest.mark.parametrize(("rule", "name", "text"), GOOD)
def test_rules_let_good_code_pass(rule: str, name: str, text: str) -> None:
    """No rule refuses what it should not."""
    check = next(check for check in RULES if check.__name__ == f"check_{rule}")
    assert list(check(name, text, ast.parse(text))) == []


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("see issue" + " 12", True),
        ("fixes " + "#" + "7", True),
        ("the 7th rule, number 3", False),
        ("cd /" + "work/main", True),
        ("WorkingDirectory=/var/lib/enjin/workdir", False),
        ("pip install --index-url https://pypi" + ".org/simple", True),
    ],
)
def test_text_rules_bite(line: str, bad: bool) -> None:
    """The rules for texts find what they are there to find, and nothing else."""
    assert bool(list(check_texts("README.md", line))) is bad
