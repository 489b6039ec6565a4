"""The progress of a training within an epoch."""

from typing import Any

import pytest

from gh_assets.recommender import MultVAE, MultVAEConfig, RecVAE, RecVAEConfig
from gh_assets.recommender.engine import progress
from gh_assets.recommender.engine.progress import ProgressMeter, TrainingProgress
from gh_assets_tests.support.matrices import taste_matrix


def test_the_time_left_does_not_count_the_first_batch_which_compiles() -> None:
    now, reports = 100.0, list[TrainingProgress]()
    meter = ProgressMeter(reports.append, users=1000, passes=1, done=0, epochs=1, clock=lambda: now)
    meter.begin_epoch(1)
    for seconds in (60, 1, 1):
        now += seconds
        meter.count(100)
    assert [str(report) for report in reports[1:]] == [
        "epoch 1, 100 of 1,000 users",
        "epoch 1, 200 of 1,000 users, at most 8 s left",
        "epoch 1, 300 of 1,000 users, at most 7 s left",
    ]


def test_users_and_the_time_left_are_reported_at_most_once_a_second() -> None:
    now, reports = 100.0, list[TrainingProgress]()
    meter = ProgressMeter(reports.append, users=1000, passes=4, done=2, epochs=12, clock=lambda: now)
    meter.begin_epoch(3)
    for _ in range(40):  # 10 batches of 100 users in each of 4 passes, a quarter of a second each
        now += 0.25
        meter.count(100)
    assert [report.users for report in reports] == list(range(0, 1001, 100))
    assert [report.seconds_left for report in reports][1:] == pytest.approx([100 - done for done in range(1, 11)])
    assert str(reports[0]) == "epoch 3, 0 of 1,000 users"
    assert str(reports[5]) == "epoch 3, 500 of 1,000 users, at most 95 s left"
    meter.begin_epoch(4)
    now += 1
    meter.count(100)
    assert (reports[-1].epoch, reports[-1].users) == (4, 25)
    assert str(TrainingProgress(1, 25, 500, 304_385, 3000.0)) == ("epoch 1, 500 of 304,385 users, at most 50 min left")


@pytest.mark.parametrize("kind", ["recvae", "multvae"])
def test_a_training_reports_users_within_its_epochs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0.0)
    reports: list[TrainingProgress] = []
    small: dict[str, Any] = {"epochs": 2, "hidden_size": 16, "latent_size": 6, "batch_size": 50}
    if kind == "recvae":
        RecVAE(RecVAEConfig(**small, encoder_passes=1), on_progress=reports.append).fit(taste_matrix(users=100))
        expected = [0, 25, 50, 75, 100]
    else:
        MultVAE(MultVAEConfig(**small), on_progress=reports.append).fit(taste_matrix(users=100))
        expected = [0, 50, 100]
    assert [(report.epoch, report.users) for report in reports] == [(e, users) for e in (1, 2) for users in expected]
    assert {(report.epochs, report.all_users) for report in reports} == {(2, 100)}
