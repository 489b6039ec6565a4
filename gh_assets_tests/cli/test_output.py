"""Tests of what commands print on terminals with different encodings."""

import io
import json
import sys
from pathlib import Path

import pytest

from gh_assets.cli import main
from gh_assets.cli.output import print_json, stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_missing_characters_are_transliterated(
    encoding: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    main(["doctor", "--settings"])
    stdout().print("★ 3 × 4 – 日本")
    sys.stdout.flush()
    shown = written.getvalue().decode(encoding)
    assert "GH_ASSETS_HOME" in shown
    assert {"ascii": "* 3 x 4 - ??", "latin-1": "* 3 × 4 - ??", "utf-8": "★ 3 × 4 – 日本"}[encoding] in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_the_same_document_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"why": "é ★ 日本"}
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    print_json(document)
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == document
