"""The manifests below examples/ are valid, and say what the pipeline says."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.run_form import CLUSTER, flatten, resolve
from pipelines.dag.tasks import HF_KEYS, HF_SECRET, USER

EXAMPLES = Path(__file__).parent.parent / "examples"
PARAMETERS = "run-gke.yaml"
MANIFESTS = sorted(p.name for p in EXAMPLES.glob("*.yaml") if p.name != PARAMETERS)
VERSIONS = ("1.29", "1.37")


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def parameters() -> dict[str, Any]:
    return resolve(flatten(yaml.safe_load((EXAMPLES / PARAMETERS).read_text())))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_every_object_is_valid(name, version):
    for manifest in objects(name):
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_validator_sees_a_misspelt_field():
    pod = objects("gpu-check.yaml")[0]
    pod["spec"]["nodeSelektor"] = pod["spec"].pop("nodeSelector")
    with pytest.raises(kubernetes_validate.ValidationError, match="nodeSelektor"):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


def test_every_file_says_what_it_is():
    for path in EXAMPLES.rglob("*.yaml"):
        assert path.read_text().startswith("# "), path.name


def test_the_secret_is_the_one_that_the_tasks_read():
    (secret,) = objects("hf-token.yaml")
    assert secret["metadata"]["name"] == HF_SECRET and set(secret["stringData"]) == set(HF_KEYS)


def test_the_pool_takes_the_run_and_the_check():
    """The run's selector and tolerations are those of the pod, and fit the node."""
    (pod,), (node,), run = objects("gpu-check.yaml"), objects("gpu-node.yaml"), parameters()
    assert pod["spec"]["nodeSelector"] == run["cluster_gpu_node_selector"]
    assert pod["spec"]["tolerations"] == run["cluster_gpu_tolerations"]
    labels = node["metadata"]["labels"]
    assert run["cluster_gpu_node_selector"].items() <= labels.items()
    tolerated = {(t["key"], t["effect"]) for t in run["cluster_gpu_tolerations"]}
    assert {(t["key"], t["effect"]) for t in node["spec"]["taints"]} == tolerated
    affinity = next(p.default for p in CLUSTER if p.name == "cluster_cpu_affinity")
    required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    kept_off = [e["key"] in labels for term in required for e in term["matchExpressions"]]
    assert any(kept_off)  # CPU stages


def test_the_check_is_a_pod_as_the_pipeline_makes_it():
    (pod,) = objects("gpu-check.yaml")
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["runAsUser"] == USER
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["volumeMounts"][0]["mountPath"] == "/dev/shm"
    assert "runtimeClassName" not in pod["spec"]
    compile(container["args"][0], "gpu-check", "exec")


def test_nothing_needs_a_persistent_volume():
    for name in MANIFESTS:
        assert "PersistentVolumeClaim" not in {o["kind"] for o in objects(name)}
    (root,) = objects("pipeline-root.yaml")
    assert root["data"]["defaultPipelineRoot"].startswith("gs://")
    uris = [v for n, v in parameters().items() if not n.startswith("cluster_")]
    assert all(str(uri).startswith("gs://") for uri in uris)


def test_one_namespace_and_one_service_account():
    everything = [o for name in MANIFESTS for o in objects(name) if o["kind"] != "Node"]
    assert {o["metadata"]["namespace"] for o in everything} == {"kubeflow"}
    account, binding = objects("service-account.yaml")
    name = account["metadata"]["name"]
    assert "iam.gke.io/gcp-service-account" in account["metadata"]["annotations"]
    assert [s["name"] for s in binding["subjects"]] == [name]
    assert objects("gpu-check.yaml")[0]["spec"]["serviceAccountName"] == name
