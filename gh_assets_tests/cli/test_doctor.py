"""Tests of `gh-assets doctor`."""

from pathlib import Path

import pytest

from gh_assets_tests.support.commands import answer_json


def test_doctor_reports_each_failing_service(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer_json("doctor", "--settings")["GH_ASSETS_HOME"] == str(fresh_home)
    assert {finding["service"]: finding["ok"] for finding in answer_json("doctor")} == dict.fromkeys(
        ["home", "MongoDB", "Cloud Storage", "GitHub", "Dagster", "compute", "content"], True
    )
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.3)
    monkeypatch.setenv("MONGO_URI", "mongodb://127.0.0.1:9/")
    findings = {finding["service"]: finding for finding in answer_json("doctor", code=1)}
    assert not findings["MongoDB"]["ok"]
    assert findings["Cloud Storage"]["ok"], "one service that is away hides no other"
