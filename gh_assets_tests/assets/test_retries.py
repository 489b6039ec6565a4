"""Which errors are retried: transient ones, a few times, and none where a user waits."""

import dagster as dg
import pytest
from dagster import DagsterInstance

from gh_assets.assets import retries
from gh_assets.assets.definition import tag_run
from gh_assets.assets.retries import retry_transient, without_retries
from gh_assets.errors import GhAssetsError, InputError, ServiceUnavailableError


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)


def job_that_raises(*raised: BaseException) -> tuple[dg.JobDefinition, list[int]]:
    """A job that raises one error an attempt, then succeeds; and the retry numbers of its attempts."""
    attempts: list[int] = []

    @dg.op
    @retry_transient
    def step(context: dg.OpExecutionContext) -> None:
        attempts.append(context.retry_number)
        tag_run(context, {"attempts": len(attempts)})
        if len(attempts) <= len(raised):
            raise raised[len(attempts) - 1]

    graph = dg.GraphDefinition(name="a_job", node_defs=[step])
    return dg.JobDefinition(name="a_job", graph_def=graph), attempts


UNAVAILABLE = ServiceUnavailableError("GitHub did not answer")


def test_transient_errors_are_retried(instance: DagsterInstance) -> None:
    job, attempts = job_that_raises(UNAVAILABLE, UNAVAILABLE)
    result = job.execute_in_process(instance=instance)
    assert result.success
    assert attempts == [0, 1, 2]
    assert instance.get_run_by_id(result.run_id).tags["gh_assets/attempts"] == "3"  # type: ignore[union-attr]


def test_retries_are_limited(instance: DagsterInstance) -> None:
    job, attempts = job_that_raises(*[UNAVAILABLE] * 10)
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    assert len(attempts) == 1 + retries.RETRIES


@pytest.mark.parametrize("error", [InputError("no list"), ValueError("a mistake"), KeyboardInterrupt()])
def test_other_errors_are_not_retried(instance: DagsterInstance, error: BaseException) -> None:
    job, attempts = job_that_raises(error)
    try:
        assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        assert isinstance(error, KeyboardInterrupt)
    assert attempts == [0]


def test_without_retries_the_error_is_raised_at_once(instance: DagsterInstance) -> None:
    job, attempts = job_that_raises(UNAVAILABLE)
    with without_retries(), pytest.raises(GhAssetsError, match="did not answer"):
        job.execute_in_process(instance=instance)
    assert attempts == [0]
