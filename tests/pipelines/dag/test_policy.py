"""`macrec lint`: the committed pipeline has no problem, and every planted fault is named."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from macrec.core.errors import UserError
from pipelines.cli import main
from pipelines.dag.compile import compiled
from pipelines.dag.policy import lint, problems

ROOT = Path(__file__).parent.parent.parent.parent
DIGEST = "europe-docker.pkg.dev/p/r/macrec-gpu@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all((ROOT / "pipeline.yaml").read_text()))


class Pipeline:
    """A copy of the documents, with short ways to the parts that the faults are planted in."""

    def __init__(self, documents: list[Any]) -> None:
        self.documents = copy.deepcopy(documents)
        self.spec, platform = self.documents
        self.tasks = self.spec["root"]["dag"]["tasks"]
        self.run_parameters = self.spec["root"]["inputDefinitions"]["parameters"]
        self.components = self.spec["components"]
        self.executors = self.spec["deploymentSpec"]["executors"]
        self.pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    def given(self, task: str, kind: str = "parameters") -> dict[str, Any]:
        return self.tasks[task]["inputs"][kind]


# What is planted: (an edit of the pipeline, a part of the message).
FAULTS: dict[str, tuple[Callable[[Pipeline], Any], str]] = {
    "no CPU request": (
        lambda p: p.executors["exec-train"]["container"]["resources"].pop("resourceCpuRequest"),
        "exec-train: no CPU request, so a full node evicts it first",
    ),
    "no memory request": (
        lambda p: p.executors["exec-train"]["container"]["resources"].pop("resourceMemoryRequest"),
        "exec-train: no memory request, so a full node evicts it first",
    ),
    "run parameter gone": (
        lambda p: p.run_parameters.pop("generator_layers"),
        "train.layers: componentInputParameter generator_layers is no input of the pipeline",
    ),
    "parameter of no task": (
        lambda p: p.given("train").update(
            store={"taskOutputParameter": {"producerTask": "gone", "outputParameterKey": "x"}}
        ),
        "train.store: taskOutputParameter of gone, which is no task",
    ),
    "parameter output that is none": (
        lambda p: p.given("prepare-data")["catalog_snapshot"]["taskOutputParameter"].update(
            outputParameterKey="gone_digest"
        ),
        "prepare-data.catalog_snapshot: snapshot-catalog has no output gone_digest",
    ),
    "artifact of no task": (
        lambda p: p.given("train", "artifacts")["sequences"]["taskOutputArtifact"].update(
            producerTask="gone"
        ),
        "train.sequences: taskOutputArtifact of gone, which is no task",
    ),
    "artifact output that is none": (
        lambda p: p.given("train", "artifacts")["sequences"]["taskOutputArtifact"].update(
            outputArtifactKey="gone"
        ),
        "train.sequences: prepare-data has no output gone",
    ),
    "pipeline artifact that is none": (
        lambda p: p.given("train", "artifacts").update(
            sequences={"componentInputArtifact": "gone"}
        ),
        "train.sequences: componentInputArtifact gone is no input",
    ),
    "producer not waited for": (
        lambda p: p.tasks["train"]["dependentTasks"].remove("prepare-data"),
        "train.sequences: comes from prepare-data, which dependentTasks does not name",
    ),
    "waits for no task": (
        lambda p: p.tasks["train"]["dependentTasks"].append("gone"),
        "train: dependentTasks names gone",
    ),
    "cycle": (
        lambda p: p.tasks["prepare-data"]["dependentTasks"].append("train"),
        "tasks wait for each other: ",
    ),
    "no component": (
        lambda p: p.components.pop("comp-train"),
        "train: componentRef comp-train is no component",
    ),
    "no component named": (
        lambda p: p.tasks["train"].pop("componentRef"),
        "train: componentRef None is no component",
    ),
    "no executor": (
        lambda p: p.components["comp-train"].update(executorLabel="exec-gone"),
        "comp-train: executorLabel exec-gone has no executor",
    ),
    "required input absent": (
        lambda p: p.given("train", "artifacts").pop("sequences"),
        "train: lacks sequences, which its component requires",
    ),
    "input that is not taken": (
        lambda p: p.components["comp-train"]["inputDefinitions"]["parameters"].pop("layers"),
        "train: gives layers, which its component does not take",
    ),
    "input of another type": (
        lambda p: p.run_parameters["generator_layers"].update(
            parameterType="STRING", defaultValue="4"
        ),
        "train.layers: is a NUMBER_INTEGER, the run parameter a STRING",
    ),
    "run parameter for nothing": (
        lambda p: p.given("train").pop("layers"),
        "generator_layers: run parameter that nothing takes",
    ),
    "dangling resource": (
        lambda p: p.given("train").pop("pipelinechannel--gpu_count"),
        "train, its container: names the input pipelinechannel--gpu_count",
    ),
    "dangling constant": (
        lambda p: p.given("train").pop("pipelinechannel--gpu_count"),
        "train.accelerator_count: names the input pipelinechannel--gpu_count",
    ),
    "nested": (
        lambda p: (
            p.components["comp-train"].update(dag={"tasks": {}})
            or p.components["comp-train"].pop("executorLabel")
        ),
        "comp-train: a DAG in the DAG",
    ),
    "no description": (
        lambda p: p.run_parameters["gpu_count"].pop("description"),
        "gpu_count: run parameter without a description",
    ),
    "no default": (
        lambda p: p.run_parameters["gpu_count"].pop("defaultValue"),
        "gpu_count: optional run parameter without a default",
    ),
    "default of another type": (
        lambda p: p.run_parameters["gpu_node_selector"].update(parameterType="LIST"),
        "gpu_node_selector: the default {} is no LIST",
    ),
    "default that is no number": (
        lambda p: p.run_parameters["generator_layers"].update(defaultValue=True),
        "generator_layers: the default True is no NUMBER_INTEGER",
    ),
    "number for a GPU limit": (
        lambda p: p.run_parameters["gpu_count"].update(
            parameterType="NUMBER_INTEGER", defaultValue=1, literals=[]
        ),
        "train: its resources go by gpu_count, a NUMBER_INTEGER; KFP takes only a STRING",
    ),
    "default outside the literals": (
        lambda p: p.run_parameters["text_pooling"].update(literals=["mean", "cls"]),
        "text_pooling: the default 'last_token' is none of its literals",
    ),
    "no display name": (
        lambda p: p.tasks["train"].update(taskInfo={"name": "train"}),
        "train: no display name",
    ),
    "not cached": (
        lambda p: p.tasks["train"].update(cachingOptions={}),
        "train: is not cached",
    ),
    "snapshot cached": (
        lambda p: p.tasks["snapshot-catalog"].update(cachingOptions={"enableCache": True}),
        "snapshot-catalog: is cached, so new data would go unnoticed",
    ),
    "cache key": (
        lambda p: p.tasks["train"]["cachingOptions"].update(cacheKey="mine"),
        "train: cacheKey takes results of other inputs",
    ),
    "no retries": (
        lambda p: p.tasks["train"].pop("retryPolicy"),
        "train: a GPU task without retries",
    ),
    "no backoff": (
        lambda p: p.tasks["pseudo-label"]["retryPolicy"].pop("backoffDuration"),
        "pseudo-label: retries without backoff",
    ),
    "image without a tag": (
        lambda p: p.executors["exec-train"]["container"].update(image="reg.io:5000/macrec-gpu"),
        "exec-train: image 'reg.io:5000/macrec-gpu' is not pinned",
    ),
    "latest": (
        lambda p: p.executors["exec-train"]["container"].update(image="macrec-gpu:latest"),
        "exec-train: image 'macrec-gpu:latest' is not pinned",
    ),
    "half a digest": (
        lambda p: p.executors["exec-train"]["container"].update(image=DIGEST[:-1]),
        "is not pinned",
    ),
    "GPU without tolerations": (
        lambda p: p.pods["exec-train"].pop("tolerations"),
        "exec-train: a GPU limit without tolerations",
    ),
    "GPU without node selector": (
        lambda p: p.pods["exec-train"].pop("nodeSelector"),
        "exec-train: a GPU limit without nodeSelector",
    ),
    "tolerations without GPU": (
        lambda p: p.pods["exec-pseudo-label"].update(tolerations=[{"key": "nvidia.com/gpu"}]),
        "exec-pseudo-label: tolerations of the GPU pool, but no GPU limit",
    ),
    "GPU limit gone": (
        lambda p: p.executors["exec-train"]["container"].pop("resources"),
        "exec-train: no GPU limit, but nothing keeps it off the GPU pool",
    ),
    "another accelerator": (
        lambda p: p.executors["exec-train"]["container"]["resources"]["accelerator"].update(
            type="tpu", resourceType="tpu"
        ),
        "exec-train: the accelerator is not nvidia.com/gpu",
    ),
    "accelerator without count": (
        lambda p: p.executors["exec-train"]["container"]["resources"]["accelerator"].pop(
            "resourceCount"
        ),
        "exec-train: an accelerator without a count",
    ),
    "no shared memory": (
        lambda p: p.pods["exec-train"].pop("emptyDirMounts"),
        "exec-train: a GPU task without /dev/shm",
    ),
    "pod of nothing": (
        lambda p: p.pods.update({"exec-gone": {}}),
        "exec-gone: settings of a pod without a container",
    ),
    "pod parameter gone": (
        lambda p: p.pods["exec-train"]["nodeSelector"]["nodeSelectorJson"].update(
            componentInputParameter="pool"
        ),
        "exec-train.nodeSelector.nodeSelectorJson: componentInputParameter pool is no input",
    ),
    "no timeout": (
        lambda p: p.pods["exec-train"].pop("activeDeadlineSeconds"),
        "exec-train: no timeout",
    ),
    "no pull policy": (
        lambda p: p.pods["exec-train"].pop("imagePullPolicy"),
        "exec-train: no image pull policy",
    ),
    "root": (
        lambda p: p.pods["exec-train"]["securityContext"].update(runAsUser=0),
        "exec-train: its security context lets it run as root",
    ),
    "secret required": (
        lambda p: p.pods["exec-embed-text"]["secretAsEnv"][0].pop("optional"),
        "exec-embed-text: the secret hf-token is not optional",
    ),
    "field that KFP does not know": (
        lambda p: p.tasks["train"].update(retries=3),
        "not a PipelineSpec and a PlatformSpec of KFP",
    ),
    "pod field that KFP does not know": (
        lambda p: p.pods["exec-train"].update(ephemeralStorage="1Gi"),
        "not a PipelineSpec and a PlatformSpec of KFP",
    ),
    "no tasks": (lambda p: p.spec.pop("root"), "a PipelineSpec without root tasks"),
    "one document": (lambda p: p.documents.pop(), "1 documents"),
}


def test_the_committed_pipeline_has_no_problem():
    told = lint(ROOT / "pipeline.yaml")
    assert "11 tasks" in told and "no problem found" in told


def test_the_encoding_pipeline_has_no_problem():
    assert problems(list(yaml.safe_load_all(compiled(name="encode")))) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(documents, fault):
    edit, message = FAULTS[fault]
    pipeline = Pipeline(documents)
    edit(pipeline)
    found = problems(pipeline.documents)
    assert any(message in problem for problem in found), found


def test_images_named_by_tag_pass_unless_digests_are_asked_for(documents):
    tagged = problems(documents, digests=True)
    assert len(tagged) == 11 and all("named by a tag" in problem for problem in tagged)
    by_digest = compiled({"cpu": DIGEST, "gpu": DIGEST})
    assert problems(list(yaml.safe_load_all(by_digest)), digests=True) == []


def test_all_problems_come_in_one_message(documents, tmp_path, capfd):
    pipeline = Pipeline(documents)
    pipeline.pods["exec-train"].pop("tolerations")
    pipeline.tasks["train"].pop("retryPolicy")
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump_all(pipeline.documents))
    with pytest.raises(SystemExit) as ended:
        main.main(["lint", str(path)])
    assert ended.value.code == 2
    with pytest.raises(UserError) as refused:
        lint(path)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("broken.yaml: 2 problems") and len(lines) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("a: [1\n", "no compiled pipeline"), ("- a\n", "1 documents")],
)
def test_what_is_no_pipeline_is_refused(tmp_path, content, message):
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        lint(path)
