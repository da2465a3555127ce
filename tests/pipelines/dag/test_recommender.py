"""The compiled DAG: what is committed is what the code says, and what it says is well formed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.kfp_component import container_component, parameters
from components.run_form import PREVIOUS, RECOMMENDER
from components.stages import CHECK_RUN, stage_named
from macrec.core.artifact import DatasetOutput
from macrec.core.settings import fields
from pipelines.cli import contract
from pipelines.dag.compile import compile_pipeline

ROOT = Path(__file__).parent.parent.parent.parent
STAGES = [CHECK_RUN.name, *(stage.name for stage in RECOMMENDER.stages)]
GPU_STAGES = {"embed_text", "embed_image", "quantize", "train", "evaluate", "recommend"}


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(compile_pipeline()))


@pytest.fixture(scope="module")
def tasks(documents) -> dict[str, Any]:
    return {n.replace("-", "_"): t for n, t in documents[0]["root"]["dag"]["tasks"].items()}


def test_the_committed_pipeline_is_the_code(documents):
    committed = list(yaml.safe_load_all((ROOT / "pipeline.yaml").read_text()))
    assert committed == documents, "run `make compile` and commit pipeline.yaml"


def test_the_committed_data_contract_is_the_code():
    committed = (ROOT / "docs" / "data_contract.md").read_text()
    assert committed == "\n".join(contract.lines()) + "\n", "run `make compile`"
    datasets = {
        output.name
        for name in STAGES
        for output in fields(stage_named(name).outputs)
        if output.kind is DatasetOutput
    }
    assert set(contract.SCHEMAS) == datasets


def test_the_dag_is_flat_and_has_every_stage(documents, tasks):
    assert set(tasks) == set(STAGES)
    assert all("dag" not in c for c in documents[0]["components"].values())


def test_the_wiring_is_that_of_the_readme(tasks):
    edges = {
        (
            task["inputs"]["artifacts"][key]["taskOutputArtifact"]["producerTask"].replace(
                "-", "_"
            ),
            n,
        )
        for n, task in tasks.items()
        for key in task["inputs"].get("artifacts", {})
    }
    assert edges == {
        ("prepare_data", "embed_text"),
        ("prepare_data", "embed_image"),
        ("prepare_data", "resolve_collisions"),
        ("prepare_data", "train"),
        ("prepare_data", "evaluate"),
        ("embed_text", "pseudo_label"),
        ("embed_image", "pseudo_label"),
        ("prepare_data", "embed_histories"),
        ("embed_histories", "quantize"),
        ("embed_text", "quantize"),
        ("embed_image", "quantize"),
        ("pseudo_label", "quantize"),
        ("quantize", "resolve_collisions"),
        ("quantize", "evaluate"),
        ("embed_image", "evaluate"),
        ("resolve_collisions", "train"),
        ("resolve_collisions", "evaluate"),
        ("train", "evaluate"),
        ("prepare_data", "recommend"),
        ("resolve_collisions", "recommend"),
        ("train", "recommend"),
        ("evaluate", "recommend"),
        ("quantize", "recommend"),
    }


def test_every_source_carries_the_digest_of_the_snapshot(tasks):
    seen = set()
    for name, task in tasks.items():
        for key, value in task["inputs"].get("parameters", {}).items():
            if key.endswith("_snapshot"):
                producer = value["taskOutputParameter"]
                assert producer["producerTask"] == "check-run"
                uri = task["inputs"]["parameters"][key.removesuffix("_snapshot")]
                source = producer["outputParameterKey"].removesuffix("_digest")
                if source in PREVIOUS:  # the first task finds where it is
                    assert uri["taskOutputParameter"] == {**producer, "outputParameterKey": source}
                else:
                    assert uri["componentInputParameter"] == source, (name, key)
                seen.add(source)
    assert seen == {*RECOMMENDER.sources, *PREVIOUS}
    assert tasks["check_run"]["cachingOptions"] == {}
    cached = [n for n, t in tasks.items() if t["cachingOptions"].get("enableCache")]
    assert set(cached) == set(STAGES) - {"check_run"}


def test_gpu_stages_go_to_the_pool_that_the_run_names(documents, tasks):
    spec, platform = documents
    executors = spec["deploymentSpec"]["executors"]
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in STAGES:
        label = f"exec-{name.replace('_', '-')}"
        container, pod = executors[label]["container"], kubernetes[label]
        on_gpu = name in GPU_STAGES
        assert ("accelerator" in container.get("resources", {})) is on_gpu, name
        assert ("nodeSelector" in pod) is on_gpu and ("tolerations" in pod) is on_gpu, name
        assert ("emptyDirMounts" in pod) is on_gpu, name
        off = [{"nodeAffinityJson": {"componentInputParameter": "cluster_cpu_affinity"}}]
        assert pod.get("nodeAffinity") == (None if on_gpu else off), name
        assert container["image"].startswith("macrec-gpu" if on_gpu else "macrec-cpu"), name
        assert tasks[name]["retryPolicy"] == {
            "maxRetryCount": 3,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "900s",
        }
        assert pod["imagePullPolicy"] == "IfNotPresent" and int(pod["activeDeadlineSeconds"]) > 0
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] != "0"
        token = [key["envVar"] for s in pod.get("secretAsEnv", ()) for key in s["keyToEnv"]]
        assert token == (["HF_TOKEN"] if name.startswith("embed_") and on_gpu else []), name


def test_the_user_of_the_pods_is_that_of_the_image():
    from pipelines.dag.tasks import USER

    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert f"useradd --uid {USER} " in dockerfile
    users = [line for line in dockerfile.splitlines() if line.startswith("USER ")]
    assert users == [f"USER {USER}"] * 2


def test_stages_that_can_share_their_work_are_told_the_number_of_gpus(tasks):
    given = {
        name: task["inputs"]["parameters"]["processes"]
        for name, task in tasks.items()
        if "processes" in task["inputs"]["parameters"]
    }
    assert set(given) == {"quantize", "train"}
    assert all(
        wired == {"componentInputParameter": "cluster_gpu_count"} for wired in given.values()
    )


def test_the_parameters_of_pods_are_of_the_types_that_kfp_reads(documents):
    declared = documents[0]["root"]["inputDefinitions"]["parameters"]
    names = [n for n in RECOMMENDER.fields if n.startswith("cluster_")]
    types = {name: declared[name]["parameterType"] for name in names}
    assert types == {
        "cluster_cpu_affinity": "STRUCT",
        "cluster_gpu_count": "STRING",  # which the driver reads as text
        "cluster_gpu_node_selector": "STRUCT",
        "cluster_gpu_tolerations": "LIST",
    }


def test_every_run_parameter_is_described_with_its_default(documents):
    declared = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert set(declared) == set(RECOMMENDER.fields) and len(declared) <= 30
    for name, parameter in RECOMMENDER.fields.items():
        assert declared[name]["description"], name
        if parameter.required:
            assert "defaultValue" not in declared[name]
        else:
            default = parameter.default
            expected = list(default) if isinstance(default, tuple) else default
            assert declared[name]["defaultValue"] == expected, name
        assert tuple(declared[name].get("literals", ())) == parameter.choices, name


def test_every_stage_receives_its_settings_from_the_first_task(tasks):
    """A setting that is not passed on is trap 2 of the method."""
    for stage in RECOMMENDER.stages:
        assert tasks[stage.name]["inputs"]["parameters"]["settings"]["taskOutputParameter"] == {
            "producerTask": "check-run",
            "outputParameterKey": f"{stage.name}_settings",
        }


def test_the_first_task_receives_the_whole_form_but_for_what_pods_alone_need(tasks):
    given = dict(tasks["check_run"]["inputs"]["parameters"])
    assert given.pop("pipeline")["runtimeValue"]["constant"] == "recommender"
    assert {name: value["componentInputParameter"] for name, value in given.items()} == {
        name: name
        for name in RECOMMENDER.fields
        if not name.startswith("cluster_") and name not in ("run_store", "run_cache_salt")
    }


@pytest.mark.parametrize("name", STAGES)
def test_a_component_is_what_its_stage_declares(name):
    stage = stage_named(name)
    component = container_component(stage).component_spec
    names = [p.name for p in [*stage.artifacts, *parameters(stage)]]
    assert set(component.inputs) == set(names)
    assert set(component.outputs) == {p.name for p in fields(stage.outputs)} | {"metrics"}
    container = component.implementation.container
    assert container.command == ["python", "-m", "components", name]
    assert container.args == ["--executor-input", "{{$}}"]


def test_embedding_shards_stand_before_the_task_that_takes_their_vectors(documents):
    """Flat, as the rest: no loop hides them; with one shard there is no task more."""
    assert list(yaml.safe_load_all(compile_pipeline(embedding_shards=1))) == documents
    spec, _ = yaml.safe_load_all(compile_pipeline(embedding_shards=3))
    assert all("dag" not in c for c in spec["components"].values())
    tasks = spec["root"]["dag"]["tasks"]
    assert len(tasks) == len(STAGES) + 2 * 3
    for stage_label in ("embed-text", "embed-image"):
        parts = [f"{stage_label}-{k}" for k in (2, 3, 4)]
        whole = tasks[stage_label]
        assert set(whole["dependentTasks"]) == {*parts, "prepare-data", "check-run"}
        assert "shard" not in whole["inputs"]["parameters"]
        for k, name in enumerate(parts, 1):
            given = tasks[name]["inputs"]
            shard = given["parameters"].pop("shard")
            assert shard["runtimeValue"]["constant"] == f"{k}/3"
            assert given == whole["inputs"]
            assert tasks[name]["taskInfo"]["name"].endswith(f"part {k} of 3")
            assert tasks[name]["retryPolicy"] == whole["retryPolicy"]
