"""The application as a whole: health checks, errors, and the image that serves it."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.served_home import Running, ServedHome, opened
from gh_assets_tests.support.waiting import until


def test_readiness_details_require_a_key(server: Running, served_home: ServedHome) -> None:
    for headers in ({}, {"authorization": "Bearer guess"}, {"x-forwarded-for": "127.0.0.1"}):
        response = server.get("/readyz", headers=headers)
        assert (response.status_code, response.json()) == (200, {"ready": True})
    with opened(served_home.settings, loaded=False, api_keys_text=SecretStr("a-key"), serve_rate=5) as other:
        until(lambda: other.get("/readyz").json() == {"ready": True})
        details = other.get("/readyz", headers={"authorization": "Bearer a-key"}).json()
        assert details.keys() >= {"ready", "model", "loaded", "missing", "services", "version"}
        guesses = [other.get("/readyz", headers={"x-api-key": f"guess {n}"}).status_code for n in range(8)]
        assert guesses == [401] * 5 + [429] * 3, "guesses are limited as on other paths"
        assert all(other.get("/readyz").status_code == 200 for _ in range(8))


def test_responses_contain_no_address_and_no_token(server: Running, served_home: ServedHome, github: str) -> None:
    paths = ("/", "/readyz", "/api/v1/model", "/metrics", "/u/missing-user", "/r/no/such", "/model", "/u/person-1")
    text = "".join(server.get(path).text for path in paths)
    for secret in (github.rsplit(":", 1)[1], str(served_home.settings.home), "mongodb://", "ghp_"):
        assert secret not in text


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_any_address_gets_a_response(server: Running, path: str) -> None:
    for base in ("/u/", "/r/a/", "/for?q=", "/api/v1/users/", "/static/"):
        response = server.send_raw("GET", base + quote(path, safe="/?&=."))
        assert response.status_code < 500, (base, path)


# -- the image ---------------------------------------------------------------------------------------------------------

CONTAINERFILE = (CHECKOUT / "deploy" / "Containerfile").read_text(encoding="utf-8")


def test_image_runs_unprivileged_and_copies_existing_files() -> None:
    lines = re.sub(r"\\\n\s*", "", CONTAINERFILE).splitlines()
    user = next(place for place, line in enumerate(lines) if line.startswith("USER"))
    assert lines[user] == "USER 10001"
    assert not any(line.startswith("USER") for line in lines[user + 1 :])
    assert not any(line.startswith(("RUN", "ADD")) for line in lines[user + 1 :]), "nothing runs as root after it"
    for line in lines:
        if line.startswith("COPY"):
            for name in [word for word in line.split()[1:-1] if not word.startswith("--")]:
                assert (CHECKOUT / name).exists(), name
    assert "EXPOSE 8000" in lines
    assert "ENV" not in " ".join(line for line in lines if "TOKEN" in line or "PASSWORD" in line)


@pytest.mark.slow
def test_installed_package_serves_from_a_read_only_folder(tmp_path: Path) -> None:
    """The steps of the Containerfile without a container engine: only what it copies, run by an unprivileged user."""
    source, place = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "gh_assets"):
        subprocess.run(["cp", "-r", str(CHECKOUT / name), str(source)], check=True)
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
        "from gh_assets.web.rendering import templates, static_version; templates().get_template('list.html');"
        "static_version('style.css'); from gh_assets.settings import load_settings;"
        "from gh_assets.web.app import build_app; app = build_app(load_settings());"
        "print(len(app.routes), os.getuid())"
    )
    options: dict[str, Any] = {}
    if os.getuid() == 0:
        subprocess.run(["chmod", "a+rX", *map(str, (tmp_path, tmp_path.parent, tmp_path.parent.parent))], check=True)
        subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
        subprocess.run(["chmod", "a+rwx", str(home)], check=True)
        interpreter = [sys.executable, "-c", "import asyncio"]
        with contextlib.suppress(PermissionError):  # other users cannot run an interpreter under /root
            if subprocess.run(interpreter, user=10001, cwd=home, capture_output=True).returncode == 0:
                options = {"user": 10001}
    result = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        env={"GH_ASSETS_HOME": str(home), "HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=home,
        **options,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[0]) > 15
