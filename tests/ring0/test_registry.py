"""This machine's package settings, as a build gets them. What the machine itself says beside the test's file is not the test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring0.registry import read_registry


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip configuration of the test's own."""
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def test_what_pip_would_do_goes_into_the_environment(settings: Path) -> None:
    """Settings become variables; those that are about this machine's own user stay here."""
    settings.write_text("[global]\nextra-index-url = https://registry.invalid/simple\ntimeout = 7\ncache-dir = /somewhere\n")
    found = read_registry({})
    assert found.environment["PIP_EXTRA_INDEX_URL"] == "https://registry.invalid/simple"
    assert found.environment["PIP_TIMEOUT"] == "7"
    assert not {"PIP_CACHE_DIR", "PIP_CONFIG_FILE"} & set(found.environment)


def test_the_environment_wins_over_the_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in pip itself."""
    settings.write_text("[global]\nindex-url = https://file.invalid/simple\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment.invalid/simple")
    assert read_registry({}).environment["PIP_INDEX_URL"] == "https://environment.invalid/simple"


def test_directories_that_it_names_are_shown_to_builds(settings: Path, tmp_path: Path) -> None:
    """A directory of packages is given by its first two parts; what every jail has anyway, or nobody has, is not."""
    before = set(read_registry({}).paths)
    settings.write_text(f"[global]\nfind-links = {tmp_path}/nothing /usr/share\n    file:///var/lib\n")
    assert set(read_registry({"SSL_CERT_DIR": "/etc/ssl/certs"}).paths) - before == {"/var/lib"}


def test_files_that_it_names_are_shown_to_builds(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of constraints in /etc is in no jail by itself; certificates that every jail shows, and what is gone, are not named."""
    settings.write_text("[global]\nconstraint = /etc/hostname /etc/no-such-file\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    assert "/etc/hostname" in (shown := read_registry({}).paths)
    assert {"/etc/no-such-file", "/etc/ssl/certs/ca-certificates.crt"}.isdisjoint(shown)


def test_proxies_and_certificates_are_passed_on(settings: Path) -> None:
    """And nothing else of our environment is."""
    known = {"https_proxy": "http://proxy.invalid:1", "SSL_CERT_FILE": "/etc/ssl/cert.pem", "SECRET": "x", "no_proxy": ""}
    found = read_registry(known).environment
    assert {name: found[name] for name in found if not name.startswith("PIP_")} == {
        "https_proxy": "http://proxy.invalid:1",
        "SSL_CERT_FILE": "/etc/ssl/cert.pem",
    }
