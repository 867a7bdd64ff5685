"""Make the pinned requirement files from the ranges in setup.cfg: `python requirements/compile.py [SET…]`.

Owns requirements/*.txt. Each file is complete in itself: run.txt is what enjin needs, nats.txt, postgres.txt, test.txt, lint.txt,
bench.txt and fuzz.txt add the extras of that name, and these agree because they are constrained by run.txt; peers.txt stands for
itself. Every version is pinned, and every archive has its SHA-256 as the package index of this machine's own pip settings tells it;
where that index lives is never written down. Runs pip-tools in an environment of its own, so that nothing of it gets into .venv.
"""

from __future__ import annotations

import configparser
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SETS = {
    "run": ("build",),
    "nats": ("build", "nats"),
    "postgres": ("build", "postgres"),
    "test": ("build", "nats", "postgres", "test"),
    "lint": ("build", "nats", "postgres", "test", "lint"),
    "bench": ("build", "nats", "postgres", "test", "bench"),
    "fuzz": ("build", "test", "fuzz"),
    "peers": ("peers",),
}
OPTIONS = (
    "--quiet",
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-trusted-host",
    "--no-emit-options",
    "--annotation-style=line",
)
HEADER = "# Made by requirements/compile.py from setup.cfg: {sets}. Do not edit.\n"


def ranges(extras: tuple[str, ...]) -> list[str]:
    """Return the requirement lines of setup.cfg's install_requires and of *extras*."""
    parser = configparser.ConfigParser()
    parser.read(FOLDER.parent / "setup.cfg", encoding="utf-8")
    own = [] if extras == SETS["peers"] else [parser["options"]["install_requires"]]
    texts = [*own, *(parser["options.extras_require"][extra] for extra in extras)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def compile_set(tool: Path, name: str, extras: tuple[str, ...], folder: Path) -> str:
    """Return the pinned text for one set."""
    lines = ranges(extras)
    if name not in ("run", "peers"):
        lines.append(f"-c {FOLDER / 'run.txt'}")
    source = folder / f"{name}.in"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    target = folder / f"{name}.txt"
    subprocess.run([tool, *OPTIONS, "--output-file", target, source], check=True, cwd=folder)
    kept = [line for line in target.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("--") or "--hash=" in line]
    text = "\n".join(line.split("  # via")[0].rstrip() for line in kept if not line.lstrip().startswith("#"))
    return HEADER.format(sets=", ".join(extras if name == "peers" else ("install_requires", *extras))) + text.strip() + "\n"


def main() -> int:
    """Make every file anew."""
    wanted = sys.argv[1:] or list(SETS)
    with tempfile.TemporaryDirectory(prefix="requirements.") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([folder / "venv/bin/pip", "install", "--quiet", "pip-tools"], check=True)
        for set_name in wanted:
            text = compile_set(folder / "venv/bin/pip-compile", set_name, SETS[set_name], folder)
            (FOLDER / f"{set_name}.txt").write_text(text, encoding="utf-8")
            print(f"{set_name}.txt: {text.count('==')} packages, {text.count('--hash=')} hashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
