"""How sensors request runs."""

import datetime as dt
import socket
import subprocess
import sys
import uuid

import dagster as dg

from gh_assets.automation.run_requests import RunReason, request_run
from gh_assets.instance.launcher import PROCESS


@dg.op
def step() -> None: ...


@dg.job
def a_job() -> None:
    step()


def request(instance: dg.DagsterInstance, pause: dt.timedelta) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance)
    return request_run(context, "a_job", RunReason("state 1", "Reason."), pause=pause)


def test_a_run_of_a_killed_command_does_not_block_a_sensor(instance: dg.DagsterInstance) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = str(uuid.uuid4())
    tags = {PROCESS: f"{child.pid} on {socket.gethostname()} for {dead}"}
    instance.create_run_for_job(a_job, run_id=dead, tags=tags)
    result = request(instance, dt.timedelta(hours=1))
    assert isinstance(result, dg.SensorResult)
    assert len(result.run_requests or ()) == 1
    instance.create_run_for_job(a_job)
    assert isinstance(request(instance, dt.timedelta(hours=1)), dg.SkipReason)


def test_the_pause_doubles_with_each_run_that_did_not_change_the_state(instance: dg.DagsterInstance) -> None:
    for number in range(3):
        result = request(instance, dt.timedelta(0))
        assert isinstance(result, dg.SensorResult)
        (run,) = result.run_requests or ()
        assert run.run_key == f"state 1/{number}"
        a_job.execute_in_process(instance=instance, tags=run.tags)
    result = request(instance, dt.timedelta(hours=1))
    assert isinstance(result, dg.SkipReason)
    ended = max(record.update_timestamp for record in instance.get_run_records()).replace(tzinfo=dt.UTC)
    expected = ended + dt.timedelta(hours=4)
    assert f"After 3 runs that did not change it, the next is at {expected:%H:%M:%S} UTC." in str(result.skip_message)
