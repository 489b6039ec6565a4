"""Tests of `gh-assets doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gh_assets.cli import main
from gh_assets.embedded.supervision import release_all


def test_doctor_reports_each_failing_service(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    main(["doctor", "--settings", "--json"])
    assert json.loads(capsys.readouterr().out)["GH_ASSETS_HOME"] == str(fresh_home)
    assert {finding["service"]: finding["ok"] for finding in findings} == dict.fromkeys(
        ["home", "MongoDB", "Cloud Storage", "GitHub", "Dagster", "compute"], True
    )
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.3)
    monkeypatch.setenv("MONGO_URI", "mongodb://127.0.0.1:9/")
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--json"])
    assert caught.value.code == 1
    findings = {finding["service"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["MongoDB"]["ok"]
    assert findings["Cloud Storage"]["ok"], "one service that is away hides no other"
    release_all(fresh_home)
