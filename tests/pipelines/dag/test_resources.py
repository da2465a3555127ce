"""CPU and memory of the tasks: defaults, a file that changes them, and what is refused."""

import pytest
import yaml

from components.stages import STAGES
from macrec.core.errors import UserError
from pipelines.dag.compile import compile_pipeline
from pipelines.dag.resources import DEFAULTS, read_resources
from tests.pipelines.conftest import ROOT

EXAMPLE = ROOT / "examples" / "compile" / "resources.yaml"


def requested(text: str) -> dict[str, dict[str, str]]:
    """The CPU and memory of every task of a compiled pipeline."""
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"]
    return {
        label.removeprefix("exec-").replace("-", "_"): {
            name: value
            for name, value in executor["container"]["resources"].items()
            if name.startswith(("resourceCpu", "resourceMemory"))
        }
        for label, executor in executors.items()
        if "container" in executor
    }


def test_every_stage_of_a_pipeline_has_requests_by_default():
    assert set(DEFAULTS) == {stage.name for stage in STAGES} - {"baselines"}
    for resources in DEFAULTS.values():
        assert resources.cpu_request and resources.memory_request
    for stage, values in requested(compile_pipeline()).items():
        assert values == {
            "resourceCpuRequest": DEFAULTS[stage].cpu_request,
            "resourceMemoryRequest": DEFAULTS[stage].memory_request,
        }


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    file = tmp_path / "resources.yaml"
    file.write_text(
        "train: {cpu_request: 6, memory_request: 24Gi, memory_limit: 48Gi}\n"
        "prepare_data: {cpu_limit: 1500m, memory_request: ''}\n"
    )
    before, after = requested(compile_pipeline()), requested(compile_pipeline(resources=file))
    assert after.pop("train") == {
        "resourceCpuRequest": "6",
        "resourceMemoryRequest": "24Gi",
        "resourceMemoryLimit": "48Gi",
    }
    assert after.pop("prepare_data") == {"resourceCpuRequest": "1", "resourceCpuLimit": "1500m"}
    assert after == {stage: before[stage] for stage in after}
    shards = requested(compile_pipeline(embedding_shards=2, resources=file))
    assert shards["embed_text_2"] == shards["embed_text"]


def test_only_the_resources_differ_so_no_cache_key_does(tmp_path):
    """KFP's key has the image, the command and the inputs of a task."""
    file = tmp_path / "resources.yaml"
    file.write_text("train: {cpu_request: 6}\n")
    documents = [
        list(yaml.safe_load_all(compile_pipeline(resources=path))) for path in (None, file)
    ]
    for document in documents:
        for executor in document[0]["deploymentSpec"]["executors"].values():
            executor["container"].pop("resources")
    assert documents[0] == documents[1]


def test_the_example_is_the_defaults():
    assert read_resources(EXAMPLE) == DEFAULTS
    assert set(yaml.safe_load(EXAMPLE.read_text())) == set(DEFAULTS)


def test_all_that_is_wrong_comes_in_one_message(tmp_path):
    file = tmp_path / "resources.yaml"
    file.write_text(
        "trian: {cpu_request: 2}\n"
        "train: {cpus: 2, memory_request: 4 GB}\n"
        "quantize: 8Gi\n"
        "evaluate: {cpu_request: 2Gi}\n"
    )
    with pytest.raises(UserError) as refused:
        read_resources(file)
    for part in (
        "no stage trian. Did you mean train?",
        "train: unknown cpus.",
        "train: memory_request='4 GB'",
        "quantize: write {cpu_request",
        "evaluate: cpu_request='2Gi'",
    ):
        assert part in str(refused.value)
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        read_resources(tmp_path / "absent.yaml")
