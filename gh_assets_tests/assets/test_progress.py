"""The progress of an asset in the log of its run."""

import time
from itertools import pairwise

import dagster as dg
import pytest

from gh_assets.assets.progress import asset_progress


def test_a_long_step_is_logged_every_minute_and_does_not_flood_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now, logged = 0.0, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now)
    context = dg.build_asset_context()
    monkeypatch.setattr(context.log, "info", lambda text: logged.append(now))
    progress = asset_progress(context)
    for second in range(7200):
        now = float(second)
        progress.report("recvae_model", 1, 25, "epoch 2")
    gaps = [later - earlier for earlier, later in pairwise(logged)]
    assert gaps[0] == 5
    assert max(gaps) == 60
    assert len(logged) < 200
