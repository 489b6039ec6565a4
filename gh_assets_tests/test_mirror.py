"""The tests mirror the package: ``gh_assets_tests/room/test_x.py`` tests ``gh_assets/room/x.py``."""

from gh_assets_tests.support.paths import CHECKOUT

PACKAGE, TESTS = CHECKOUT / "gh_assets", CHECKOUT / "gh_assets_tests"

ROOT_MODULES = {"__main__.py", "definitions.py", "errors.py", "io_managers.py", "schemas.py", "settings.py"}

OF_THE_PROJECT = {
    "test_benchmarks.py",
    "test_dependencies.py",
    "test_docs.py",
    "test_former_names.py",
    "test_mirror.py",
    "test_secrets.py",
    "test_upgrade.py",
    "test_vocabulary.py",
}
"""Tests that concern the whole project."""

WITHOUT_MODULE = {"instance/test_dagster_dev.py", "instance/test_kubernetes.py", "web/test_pages_in_browser.py"}
"""Tests of a module or a room against something else: a browser, an emulator, GitHub. The list may only shrink."""

HELPERS_ELSEWHERE = {"collector/collect_child.py"}
"""Helpers that are not in `support`. The list may only shrink."""

HELPERS = ("support", "faults", "cases")
"""Folders that mirror no package: helpers, tests of the whole product under faults, and examples."""


def test_every_test_file_has_its_module() -> None:
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    without_module = {
        file.as_posix()
        for file in files
        if file.parts[0] not in HELPERS and not (PACKAGE / file.parent / file.name.removeprefix("test_")).exists()
    }
    assert without_module <= WITHOUT_MODULE | OF_THE_PROJECT


def test_helpers_are_in_their_folder() -> None:
    python_files = [path.relative_to(TESTS) for path in TESTS.rglob("*.py")]
    others = {
        file.as_posix()
        for file in python_files
        if file.parts[0] not in HELPERS
        and not file.name.startswith("test_")
        and file.name not in ("__init__.py", "conftest.py")
    }
    assert others <= HELPERS_ELSEWHERE


def test_the_root_of_the_package_stays_small() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert modules <= ROOT_MODULES
