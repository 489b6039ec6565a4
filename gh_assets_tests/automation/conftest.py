"""What the tests of the automation share: a home on real servers whose GitHub changes, and its Dagster instance."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gh_assets.assets import stargazers
from gh_assets.automation.run_requests import JobSensor
from gh_assets.definitions import build_definitions
from gh_assets.embedded.standin.app import Standin
from gh_assets.settings import Settings, load_settings
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.serving import serving
from gh_assets_tests.support.worlds import LIST, world_of

STARS = {f"o/r{number}": list(range(10 + number)) for number in range(8)}
"""Stargazers of the repositories of the first world."""

definitions_of = lru_cache(maxsize=4)(build_definitions)


@dataclass
class AutomationHome:
    """A home whose GitHub changes, and its Dagster instance."""

    standin: Standin
    instance: DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The settings of the test's environment as it is now."""
        return load_settings()

    @property
    def definitions(self) -> dg.Definitions:
        return definitions_of(self.settings)

    def tick(self, sensor: JobSensor, *, crash: bool = False) -> dg.RunRequest | str:
        """Evaluate a sensor once: its run request, or why there is none. After a crash the cursor is not kept."""
        definition = sensor.build(self.settings.sensor_interval)
        resources: dict[str, Any] = dict(self.definitions.resources or {})
        context = dg.build_sensor_context(
            instance=self.instance,
            definitions=self.definitions,
            cursor=self.cursors.get(sensor.name),
            sensor_name=sensor.name,
            resources={name: resources[name] for name in definition.required_resource_keys},
        )
        with context:
            result = definition.evaluate_tick(context)
        if not crash:
            self.cursors[sensor.name] = result.cursor
        if not result.run_requests:
            return str(result.skip_message)
        (request,) = result.run_requests
        return request

    def requested(self, sensor: JobSensor, *, crash: bool = False) -> dg.RunRequest:
        """Evaluate a sensor once; return the run that it requests."""
        request = self.tick(sensor, crash=crash)
        assert isinstance(request, dg.RunRequest), request
        return request

    def execute(self, sensor: JobSensor, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Execute the run that a sensor requested."""
        job = self.definitions.resolve_job_def(request.job_name or sensor.job.name)
        return job.execute_in_process(
            run_config=request.run_config,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            instance=self.instance,
            raise_on_error=False,
        )

    def run(self, sensor: JobSensor) -> dg.ExecuteInProcessResult:
        """Evaluate a sensor, and execute the run that it requests."""
        result = self.execute(sensor, self.requested(sensor))
        assert result.success
        return result

    def run_job(self, name: str, *, success: bool = True, **config: Any) -> dg.ExecuteInProcessResult:
        """Execute a job with configurations of its ops."""
        job = self.definitions.resolve_job_def(name)
        run_config = {"ops": {op: {"config": values} for op, values in config.items()}}
        result = job.execute_in_process(run_config=run_config, instance=self.instance, raise_on_error=success)
        assert result.success is success
        return result

    def materialized(self, result: dg.ExecuteInProcessResult) -> set[str]:
        """Partitions of `stargazers` whose materializations a run reported."""
        records = self.instance.get_records_for_run(
            result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1000
        ).records
        return {str(record.partition_key) for record in records if record.asset_key == stargazers.key}

    def change(self, stars: dict[str, list[int]], listed: list[str] | None = None) -> None:
        """Change GitHub: the same ids, other stars, another list."""
        world = world_of(stars, users=400, listed=listed)
        self.standin.world.__dict__.update(world.__dict__)
        self.standin._users.clear()


@pytest.fixture
def automation(instance: DagsterInstance, serve_world: ServeWorld, monkeypatch: pytest.MonkeyPatch) -> AutomationHome:
    """A home with the world of `STARS`, whose repositories are in one list."""
    standin, url = serve_world(world_of(STARS, users=400))
    monkeypatch.setenv("GITHUB_API_URL", url)
    monkeypatch.setenv("GITHUB_TOKENS", "token")
    monkeypatch.setenv("GH_ASSETS_AWESOME", LIST)
    return AutomationHome(standin, instance)


class Webhook:
    """A server that alerts are posted to."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""

    async def receive(self, request: Request) -> PlainTextResponse:
        if self.status == 200:
            self.posted.append(await request.json())
        return PlainTextResponse("", self.status)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    with serving(Starlette(routes=[Route("/secret-path", hook.receive, methods=["POST"])])) as url:
        hook.url = f"{url}/secret-path"
        yield hook
