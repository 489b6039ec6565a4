"""docs/reference/http-api.md is accurate: its addresses respond, its parameters and codes exist, its program runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gh_assets.web.api import LoginParameters
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.served_home import Running, name_of

ROOT = CHECKOUT
API = (ROOT / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
SOURCES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gh_assets" / "web").glob("*.py"))


def ours(text: str) -> str:
    """The same for the world of the tests."""
    text = text.replace("octocat", "person-1").replace("vuejs/vue", name_of(0)).replace("vitejs/vite", name_of(3))
    return text.replace("q=vue", "q=paint").replace("vuejs/core", name_of(6))


@pytest.mark.parametrize("address", re.findall(r"curl '(http://127.0.0.1:8000/[^']*)'", API))
def test_every_address_that_is_shown_answers(server: Running, address: str) -> None:
    parts = urlsplit(ours(address))
    answer = server.get(f"{parts.path}?{parts.query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()


def test_the_answer_that_is_shown_has_the_fields_of_an_answer(server: Running) -> None:
    shown = json.loads(re.search(r"```json\n(.*?)```", API, re.DOTALL)[1])  # type: ignore[index]
    answer = server.get("/api/v1/users/person-1/recommendations?n=1").json()
    assert list(shown) == list(answer)
    assert list(shown["recommendations"][0]) == list(answer["recommendations"][0])


def test_every_parameter_is_in_the_table() -> None:
    table = API.split("| parameter | |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(
        LoginParameters.model_fields
    )


def test_every_code_of_an_error_is_in_the_table_and_the_other_way_round() -> None:
    table = API.split("| status | code | |")[1].split("\n\n")[0]
    shown = {code for line in table.splitlines()[2:] for code in re.findall(r"`([a-z_]+)`", line.split("|")[2])}
    raised = set(re.findall(r'RequestProblemError\(\s*\d+,\s*"([a-z_]+)"', SOURCES))
    raised |= set(re.findall(r'Refusal\(\d{3}, "([a-z_]+)"', SOURCES))
    forms = {"foreign_form", "no_form", "stale_form", "wrong_form"}  # of the page, not of the API
    assert raised - forms - {"failed", "http", "not_utf8", "not_text"} == shown


def test_the_program_that_is_shown_runs(server: Running) -> None:
    program = re.search(r"```python\n(.*?)```", API, re.DOTALL)[1]  # type: ignore[index]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(ours(program).replace("http://127.0.0.1:8000", server.url), {})
    assert re.fullmatch(r"\d+ repositories by hybrid 1\n", said.getvalue())


def test_the_verdict_that_is_shown_is_taken(server: Running) -> None:
    body = re.search(r"-d '(\{.*?\})'", API)[1]  # type: ignore[index]
    answer = server.post("/api/v1/feedback", data=ours(body).encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 204


# -- the image -------------------------------------------------------------------------------------------------------

CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")


def test_the_image_runs_without_rights_and_copies_what_is_there() -> None:
    lines = re.sub(r"\\\n\s*", "", CONTAINERFILE).splitlines()
    user = next(place for place, line in enumerate(lines) if line.startswith("USER"))
    assert lines[user] == "USER 10001"
    assert not any(line.startswith("USER") for line in lines[user + 1 :])
    assert not any(line.startswith(("RUN", "ADD")) for line in lines[user + 1 :]), (
        "nothing is done with rights after it"
    )
    for line in lines:
        if line.startswith("COPY"):
            for name in [word for word in line.split()[1:-1] if not word.startswith("--")]:
                assert (ROOT / name).exists(), name
    assert "EXPOSE 8000" in lines
    assert "ENV" not in " ".join(line for line in lines if "TOKEN" in line or "PASSWORD" in line)


@pytest.mark.slow
def test_what_the_image_installs_serves_from_a_folder_that_it_may_not_write_to(tmp_path: Path) -> None:
    """The steps of the Containerfile without an engine: only what it copies, and a program without rights."""
    source, place = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "gh_assets"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--target", str(place), str(source)], check=True)
    for name in ("templates/base.html", "templates/list.html", "static/htmx.min.js", "static/style.css"):
        assert (place / "gh_assets" / "web" / name).exists(), name
    assert (place / "gh_assets" / "web" / "static" / "htmx.LICENSE.txt").exists()
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["chmod", "-R", "a-w", str(place)], check=True)
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "import gh_assets; assert gh_assets.__file__.startswith(sys.argv[1]);"
        "from gh_assets.web.pages import templates, static_version; templates().get_template('list.html');"
        "static_version('style.css'); from gh_assets.settings import load_settings;"
        "from gh_assets.web.app import build_app; app = build_app(load_settings());"
        "print(len(app.routes), os.getuid())"
    )
    more = {}
    if os.getuid() == 0:
        subprocess.run(["chmod", "a+rX", *map(str, (tmp_path, tmp_path.parent, tmp_path.parent.parent))], check=True)
        subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
        subprocess.run(["chmod", "a+rwx", str(home)], check=True)
        alone = [sys.executable, "-c", "import asyncio"]
        with contextlib.suppress(PermissionError):  # an interpreter under /root is not for others
            if subprocess.run(alone, user=10001, cwd=home, capture_output=True).returncode == 0:
                more = {"user": 10001}
    told = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        env={"GH_ASSETS_HOME": str(home), "HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=home,
        **more,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert int(told.stdout.split()[0]) > 15
