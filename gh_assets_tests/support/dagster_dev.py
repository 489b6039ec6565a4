"""`dagster dev`, driven through the API of its UI."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from dagster_graphql import DagsterGraphQLClient

from gh_assets.embedded.guardian import free_port
from gh_assets_tests.support.commands import environment_of
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.waiting import until

ROOT = CHECKOUT
BIN = Path(sys.executable).parent


def start_tool(log: Path, environment: Mapping[str, str], *command: str) -> subprocess.Popen[bytes]:
    """Start a tool of this environment in the checkout, which appends its output to a log."""
    tool = [str(BIN / command[0]), *command[1:]]
    with log.open("ab") as output:
        return subprocess.Popen(tool, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True)


class Dev:
    """`dagster dev` in the checkout, and the GraphQL API of its webserver.

    Parameters
    ----------
    home : Path
    environment : mapping of str to str
        Variables in addition to those of this process, without the project's settings.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.environment = environment_of(home, **(environment or {}))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start, and wait until the webserver responds."""
        log = self.home / "dev.log"
        self.process = start_tool(log, self.environment, "dagster", "dev", "--port", str(self.port))

        def answers() -> bool:
            assert self.process.poll() is None, log.read_text()[-3000:]
            with suppress(requests.RequestException):
                return requests.get(f"{self.url}/server_info", timeout=5).ok
            return False

        until(answers)
        self.client = DagsterGraphQLClient("127.0.0.1", port_number=self.port, timeout=60)

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill webserver, daemon and code server."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)

    # -- the API -----------------------------------------------------------------------------------------------------

    def ask(self, query: str, **variables: Any) -> Any:
        body = {"query": query, "variables": variables}
        result = requests.post(f"{self.url}/graphql", json=body, timeout=60).json()
        assert "errors" not in result, result
        return result["data"]

    def partitions(self) -> list[str]:
        query = '{assetNodeOrError(assetKey:{path:["stargazers"]}){... on AssetNode{partitionKeys}}}'
        return list(self.ask(query)["assetNodeOrError"]["partitionKeys"])

    def materialized(self) -> dict[str, Any]:
        query = "{assetsOrError{... on AssetConnection{nodes{key{path} assetMaterializations(limit:1){runId}}}}}"
        nodes = self.ask(query)["assetsOrError"]["nodes"]
        return {node["key"]["path"][0]: node["assetMaterializations"] for node in nodes}

    def launch(self, job: str = "__ASSET_JOB", assets: list[str] | None = None, **tags: str) -> str:
        """Start a run, and return its id."""
        place = job, "gh_assets", "__repository__"
        return self.client.submit_job_execution(*place, tags=dict(tags), asset_selection=assets)

    def backfill(self, assets: list[str], partitions: list[str]) -> str:
        """Start a backfill, and return its id."""
        wanted = {"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": partitions}
        parameters = wanted | {"fromFailure": False, "tags": []}
        launched = self.ask(
            "mutation($p:LaunchBackfillParams!){launchPartitionBackfill(backfillParams:$p)"
            "{__typename ... on LaunchBackfillSuccess{backfillId} ... on PythonError{message}}}",
            p=parameters,
        )["launchPartitionBackfill"]
        return str(launched["backfillId"])

    def end_of(self, run_id: str, seconds: float = 300) -> str:
        """Wait for the end of a run, and return its status."""

        def ended() -> str | None:
            status = self.client.get_run_status(run_id).value
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return str(until(ended, seconds))

    def end_of_backfill(self, backfill_id: str) -> str:
        """Wait for the end of a backfill, and return its status."""
        query = "query($b:String!){partitionBackfillOrError(backfillId:$b){... on PartitionBackfill{status}}}"

        def ended() -> str | None:
            status = str(self.ask(query, b=backfill_id)["partitionBackfillOrError"]["status"])
            return status if status.startswith(("COMPLETED", "FAILED")) else None

        return str(until(ended, 300))

    def cancel(self, run_id: str) -> None:
        """Terminate a run as the UI does."""
        self.client.terminate_run(run_id)

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, newest first."""
        query = "{runsOrError(limit:1000){... on Runs{results{runId status jobName parentRunId tags{key value}}}}}"
        return list(self.ask(query)["runsOrError"]["results"])
