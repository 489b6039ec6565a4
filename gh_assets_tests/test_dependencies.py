"""Every dependency is pinned, installed by its hash, and under a known licence."""

import re
import runpy
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gh_assets.embedded.servers import mongo_uri
from gh_assets.errors import ConfigurationError
from gh_assets_tests.support.paths import CHECKOUT

ROOT = CHECKOUT
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
LICENCES = runpy.run_path(str(ROOT / "docs" / "licences.py"))
normal, licence, unknown = LICENCES["normal"], LICENCES["licence"], LICENCES["unknown"]
LICENCE_PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\S+) \| ([^|]+) \|$", LICENCE_PAGE, re.MULTILINE))


def installed() -> set[str]:
    """Return the installed direct and indirect dependencies of gh_assets, with all extras."""
    due = [("gh_assets", extra) for extra in ["", *(metadata.metadata("gh_assets").get_all("Provides-Extra") or [])]]
    seen: set[tuple[str, str]] = set()
    while due:
        name, extra = due.pop()
        if (name, extra) in seen:
            continue
        try:
            needs = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        seen.add((name, extra))
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                due += [(normal(need.name), wanted) for wanted in ["", *need.extras]]
    return {name for name, _ in seen} - {"gh_assets"}


@pytest.mark.parametrize("file", ["constraints.txt", "requirements-build.txt", "requirements-cpu.txt"])
def test_locked_packages_have_a_version_and_a_hash(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[\w.-]+==[\w.+]+ ( *;[^\\]*?)? *(--hash=sha256:[0-9a-f]{64} *)+$", line), line[:80]
    assert "://" not in text, "the lock contains no address of an index"


def test_installed_packages_are_locked() -> None:
    assert {"torch", "dagster", "pydantic-core"} <= installed()
    assert installed() <= set(LICENCES["locked"]())


def test_the_build_uses_the_locked_setuptools() -> None:
    pinned = r"^setuptools==(\S+)"
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("constraints.txt", "requirements-build.txt")]
    first, second = (re.findall(pinned, text, re.MULTILINE) for text in texts)
    assert first == second != []


def test_make_and_the_image_install_by_hash_only() -> None:
    recipe = MAKEFILE.replace("$(LOCKED)", "$(BIN)/python $(PIP) -c constraints.txt")
    recipe = recipe.replace("$(PIP)", re.search(r"^PIP := (.*)$", MAKEFILE, re.MULTILINE)[1])  # type: ignore[index]
    for text in (recipe, CONTAINERFILE):
        calls = re.findall(r"pip install\b[^\n&|}]*", text)
        assert len(calls) >= 4
        for call in calls:
            own = "--no-deps --no-build-isolation" in call  # the project itself is a folder, which has no hash
            assert own or "--require-hashes" in call, call


def test_licences_of_all_packages_are_known_and_documented() -> None:
    locked = LICENCES["locked"]()
    assert set(ROWS) - {"package"} == set(locked)
    for name in installed():
        assert licence(name) == ROWS[name], f"{name}: run make licences"
    unacceptable = {name for name in locked if unknown(ROWS[name])}
    assert unacceptable == set(LICENCES["EXCEPTIONS"]), "decide whether these licences are acceptable"
    assert LICENCES["document"]({name: ROWS[name] for name in locked}) == LICENCE_PAGE


@pytest.mark.parametrize(
    ("metadata_line", "expected"),
    [
        ("License-Expression: MIT", "MIT"),
        ("License: Apache 2.0", "Apache-2.0"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: Custom Terms", None),
        ("Classifier: License :: OSI Approved :: BSD License", None),  # ambiguous
        ("License: GPL", None),
        ("Summary: without a licence", None),
    ],
)
def test_licences_of_new_packages_are_read_from_their_metadata(
    metadata_line: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "newcomer-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: newcomer\nVersion: 1.0\n{metadata_line}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert licence("newcomer") == expected


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("MIT", set()),
        ("MIT OR GPL-3.0-only", set()),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", {"MPL-2.0"}),
        ("BSD-2-Clause AND Apache-2.0 WITH LLVM-exception", set()),
        ("MIT AND (GPL-2.0-only OR AGPL-3.0-only)", {"GPL-2.0-only", "AGPL-3.0-only"}),
        ("GPL-2.0-only AND CC-BY-4.0", {"GPL-2.0-only", "CC-BY-4.0"}),
    ],
)
def test_one_permissive_alternative_is_enough(expression: str, parts: set[str]) -> None:
    assert unknown(expression) == parts


def test_the_image_declares_the_gpl_of_secantusdb() -> None:
    assert "GPL" in ROWS["secantusdb"]
    assert "SecantusDB" in CONTAINERFILE
    assert ROWS["secantusdb"].split(" AND ")[0] in re.search(r"image\.licenses=\"(.*)\"", CONTAINERFILE)[1]  # type: ignore[index]
    imports = re.compile(r"^\s*(import|from) secantus", re.MULTILINE | re.IGNORECASE)
    assert not [path for path in (ROOT / "gh_assets").rglob("*.py") if imports.search(path.read_text(encoding="utf-8"))]


def test_installation_without_embedded_mongodb_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path / "bin"))
    with pytest.raises(ConfigurationError, match="MONGO_URI"):
        mongo_uri(tmp_path / "home")
