"""`dagster dev` as people start it, driven through the API that its UI uses. Slow: every step is a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gh_assets_tests.conftest import SETTINGS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ASSETS = ["repos", "stargazers", "users", "user_item_matrix", "recvae_model", "recommendations"]


class Ui:
    """The GraphQL API of a running webserver."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, **variables: Any) -> Any:
        answer = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def partitions(self) -> list[str]:
        query = '{assetNodeOrError(assetKey:{path:["stargazers"]}){... on AssetNode{partitionKeys}}}'
        return list(self.ask(query)["assetNodeOrError"]["partitionKeys"])

    def materialized(self) -> dict[str, Any]:
        query = "{assetsOrError{... on AssetConnection{nodes{key{path} assetMaterializations(limit:1){runId}}}}}"
        nodes = self.ask(query)["assetsOrError"]["nodes"]
        return {node["key"]["path"][0]: node["assetMaterializations"] for node in nodes}

    def launch(self, asset: str, partition: str | None = None) -> str:
        tags = [] if partition is None else [{"key": "dagster/partition", "value": partition}]
        parameters = {
            "selector": {
                "repositoryName": "__repository__",
                "repositoryLocationName": "gh_assets",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [asset]}],
                "assetCheckSelection": [],
            },
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": tags},
        }
        launched = self.ask(
            "mutation($p:ExecutionParams!){launchPipelineExecution(executionParams:$p)"
            "{__typename ... on LaunchRunSuccess{run{runId}} ... on PythonError{message}}}",
            p=parameters,
        )["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id = launched["run"]["runId"]
        return self.wait("query($r:ID!){runOrError(runId:$r){... on Run{status}}}", "runOrError", r=run_id)

    def launch_everything(self) -> str:
        backfill = {
            "assetSelection": [{"path": [asset]} for asset in ASSETS],
            "partitionNames": self.partitions(),
            "fromFailure": False,
            "tags": [],
        }
        launched = self.ask(
            "mutation($p:LaunchBackfillParams!){launchPartitionBackfill(backfillParams:$p)"
            "{__typename ... on LaunchBackfillSuccess{backfillId} ... on PythonError{message}}}",
            p=backfill,
        )["launchPartitionBackfill"]
        return self.wait(
            "query($b:String!){partitionBackfillOrError(backfillId:$b){... on PartitionBackfill{status}}}",
            "partitionBackfillOrError",
            b=launched["backfillId"],
        )

    def wait(self, query: str, field: str, **variables: str) -> str:
        deadline = time.monotonic() + 300
        while True:
            status = str(self.ask(query, **variables)[field]["status"])
            if status in ("SUCCESS", "FAILURE", "CANCELED") or status.startswith(("COMPLETED", "FAILED")):
                return status
            assert time.monotonic() < deadline, f"still {status}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Plain `dagster dev` in the checkout, with nothing set but an empty home."""
    home = tmp_path_factory.mktemp("dev")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    process = subprocess.Popen(
        [str(BIN / "dagster"), "dev", "--port", str(port)],
        cwd=ROOT,
        env=environment | {"GH_ASSETS_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            requests.get(f"{url}/server_info", timeout=5)
            break
        except requests.RequestException:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield Ui(url)
    process.send_signal(signal.SIGINT)
    process.wait(60)


def test_definitions_validate() -> None:
    done = subprocess.run([str(BIN / "dagster"), "definitions", "validate"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr


def test_from_an_empty_home_to_recommendations_in_the_ui(ui: Ui) -> None:
    assert ui.partitions() == []
    assert ui.launch("repos") == "SUCCESS"
    partitions = ui.partitions()
    assert len(partitions) > 500
    assert ui.launch("stargazers", partitions[5]) == "SUCCESS", "one partition alone"
    assert ui.launch_everything() == "COMPLETED_SUCCESS"
    assert all(ui.materialized()[asset] for asset in ASSETS)
