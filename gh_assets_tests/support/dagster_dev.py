"""`dagster dev`, driven through the API of its UI."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.waiting import until

ROOT = CHECKOUT
BIN = Path(sys.executable).parent


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
        clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        self.environment = {**clean, **(environment or {}), "GH_ASSETS_HOME": str(home)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start, and wait until the webserver responds."""
        self.log = (self.home / "dev.log").open("ab")
        self.process = subprocess.Popen(
            [str(BIN / "dagster"), "dev", "--port", str(self.port)],
            cwd=ROOT,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

        def answers() -> bool:
            assert self.process.poll() is None, (self.home / "dev.log").read_text()[-3000:]
            try:
                return requests.get(f"{self.url}/server_info", timeout=5).ok
            except requests.RequestException:
                return False

        until(answers)

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.kill()
            self.log.close()

    def kill(self) -> None:
        """Kill webserver, daemon and code server."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
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

    def launch(
        self,
        job: str = "__ASSET_JOB",
        assets: list[str] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run, and return its id."""
        selector: dict[str, Any] = {
            "repositoryName": "__repository__",
            "repositoryLocationName": "gh_assets",
            "pipelineName": job,
        }
        if assets is not None:
            selector |= {"assetSelection": [{"path": [asset]} for asset in assets], "assetCheckSelection": []}
        parameters = {
            "selector": selector,
            "mode": "default",
            "runConfigData": dict(config or {}),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        launched = self.ask(
            "mutation($p:ExecutionParams!){launchPipelineExecution(executionParams:$p)"
            "{__typename ... on LaunchRunSuccess{run{runId}} ... on PythonError{message}}}",
            p=parameters,
        )["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def backfill(self, assets: list[str], partitions: list[str]) -> str:
        """Start a backfill, and return its id."""
        parameters = {
            "assetSelection": [{"path": [asset]} for asset in assets],
            "partitionNames": partitions,
            "fromFailure": False,
            "tags": [],
        }
        launched = self.ask(
            "mutation($p:LaunchBackfillParams!){launchPartitionBackfill(backfillParams:$p)"
            "{__typename ... on LaunchBackfillSuccess{backfillId} ... on PythonError{message}}}",
            p=parameters,
        )["launchPartitionBackfill"]
        return str(launched["backfillId"])

    def status(self, run_id: str) -> str:
        query = "query($r:ID!){runOrError(runId:$r){... on Run{status}}}"
        return str(self.ask(query, r=run_id)["runOrError"]["status"])

    def backfill_status(self, backfill_id: str) -> str:
        query = "query($b:String!){partitionBackfillOrError(backfillId:$b){... on PartitionBackfill{status}}}"
        return str(self.ask(query, b=backfill_id)["partitionBackfillOrError"]["status"])

    def end_of(self, run_id: str, seconds: float = 300) -> str:
        """Wait for the end of a run, and return its status."""
        ended = ("SUCCESS", "FAILURE", "CANCELED")
        return str(until(lambda: status if (status := self.status(run_id)) in ended else None, seconds))

    def end_of_backfill(self, backfill_id: str, seconds: float = 300) -> str:
        """Wait for the end of a backfill, and return its status."""
        return str(
            until(
                lambda: s if (s := self.backfill_status(backfill_id)).startswith(("COMPLETED", "FAILED")) else None,
                seconds,
            )
        )

    def cancel(self, run_id: str) -> None:
        """Terminate a run as the UI does."""
        query = "mutation($r:String!){terminateRun(runId:$r){__typename ... on TerminateRunFailure{message}}}"
        result = self.ask(query, r=run_id)["terminateRun"]
        assert result["__typename"] == "TerminateRunSuccess", result

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, newest first."""
        query = "{runsOrError(limit:1000){... on Runs{results{runId status jobName parentRunId tags{key value}}}}}"
        return list(self.ask(query)["runsOrError"]["results"])
