"""`macrec lint`: the committed pipeline has no problem, and every planted fault is reported."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from macrec.core.errors import UserError
from pipelines.cli import main
from pipelines.dag.compile import compile_pipeline
from pipelines.dag.policy import lint, problems

ROOT = Path(__file__).parent.parent.parent.parent
DIGEST = "europe-docker.pkg.dev/p/r/macrec-gpu@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all(compile_pipeline()))


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
        self.train = self.tasks["train"]
        self.gpu, self.cpu = self.pods["exec-train"], self.pods["exec-pseudo-label"]
        self.container = self.executors["exec-train"]["container"]
        self.sequences = self.train["inputs"]["artifacts"]["sequences"]["taskOutputArtifact"]
        self.first = next(n for n, t in self.tasks.items() if "dependentTasks" not in t)

    def resource_input(self) -> str:
        """Return the name of the task input that sets the number of GPUs of `train`."""
        return next(
            n for n in self.train["inputs"]["parameters"] if n.startswith("pipelinechannel")
        )

    def resource_parameter(self) -> dict[str, Any]:
        """Return the run parameter that sets the number of GPUs of `train`."""
        given = self.train["inputs"]["parameters"][self.resource_input()]
        return self.run_parameters[given["componentInputParameter"]]

    def any_parameter(self) -> dict[str, Any]:
        return next(iter(self.run_parameters.values()))


def renamed_parameter(pipeline: Pipeline) -> None:
    name = next(iter(pipeline.run_parameters))
    pipeline.run_parameters["renamed"] = pipeline.run_parameters.pop(name)


# What is planted: (an edit of the pipeline, what a line of the message must contain).
FAULTS: dict[str, tuple[Callable[[Pipeline], Any], list[str]]] = {
    "no CPU request": (
        lambda p: p.container["resources"].pop("resourceCpuRequest"),
        ["exec-train", "CPU or memory request"],
    ),
    "no memory request": (
        lambda p: p.container["resources"].pop("resourceMemoryRequest"),
        ["exec-train", "CPU or memory request"],
    ),
    "run parameter gone": (renamed_parameter, ["componentInputParameter", "does not exist"]),
    "run parameter for nothing": (renamed_parameter, ["renamed", "no task uses"]),
    "parameter of no task": (
        lambda p: p.train["inputs"]["parameters"].update(
            store={"taskOutputParameter": {"producerTask": "gone", "outputParameterKey": "x"}}
        ),
        ["train.inputs.parameters.store", "producerTask gone does not exist"],
    ),
    "parameter output that is none": (
        lambda p: p.train["inputs"]["parameters"].update(
            store={"taskOutputParameter": {"producerTask": p.first, "outputParameterKey": "x"}}
        ),
        ["train.inputs.parameters.store", "no output x"],
    ),
    "artifact of no task": (
        lambda p: p.sequences.update(producerTask="gone"),
        ["train.inputs.artifacts.sequences", "producerTask gone does not exist"],
    ),
    "artifact output that is none": (
        lambda p: p.sequences.update(outputArtifactKey="gone"),
        ["train.inputs.artifacts.sequences", "prepare-data has no output gone"],
    ),
    "pipeline artifact that is none": (
        lambda p: p.train["inputs"]["artifacts"].update(
            sequences={"componentInputArtifact": "gone"}
        ),
        ["train.inputs.artifacts.sequences", "componentInputArtifact gone does not exist"],
    ),
    "waits for no task": (
        lambda p: p.train["dependentTasks"].append("gone"),
        ["train", "dependentTasks gone does not exist"],
    ),
    "cycle": (
        lambda p: p.tasks["prepare-data"]["dependentTasks"].append("train"),
        ["tasks wait for each other", "train", "prepare-data"],
    ),
    "no component": (
        lambda p: p.components.pop("comp-train"),
        ["train", "componentRef comp-train does not exist"],
    ),
    "no executor": (
        lambda p: p.components["comp-train"].update(executorLabel="exec-gone"),
        ["comp-train", "executorLabel exec-gone does not exist"],
    ),
    "pod of nothing": (
        lambda p: p.pods.update({"exec-gone": {}}),
        ["exec-gone", "does not exist"],
    ),
    "pod parameter gone": (
        lambda p: p.gpu["nodeSelector"]["nodeSelectorJson"].update(componentInputParameter="pool"),
        ["exec-train.nodeSelector.nodeSelectorJson", "componentInputParameter pool"],
    ),
    "pod parameter in a list gone": (
        lambda p: p.gpu["tolerations"][0]["tolerationJson"].update(componentInputParameter="pool"),
        ["exec-train.tolerations.tolerationJson", "componentInputParameter pool"],
    ),
    "dangling resource": (
        lambda p: p.train["inputs"]["parameters"].pop(p.resource_input()),
        ["train: refers to its input pipelinechannel--", "does not exist"],
    ),
    "dangling constant": (
        lambda p: p.train["inputs"]["parameters"].update(
            store={"runtimeValue": {"constant": "{{$.inputs.parameters['gone']}}"}}
        ),
        ["train: refers to its input gone", "does not exist"],
    ),
    "nested": (
        lambda p: (
            p.components["comp-train"].update(dag={"tasks": {}})
            or p.components["comp-train"].pop("executorLabel")
        ),
        ["train", "a DAG in the DAG"],
    ),
    "no description": (
        lambda p: p.any_parameter().pop("description"),
        ["run parameter without a description"],
    ),
    "default outside the literals": (
        lambda p: p.any_parameter().update(
            parameterType="STRING", defaultValue="last", literals=["mean"]
        ),
        ["default 'last'", "literals"],
    ),
    "number for a GPU limit": (
        lambda p: p.resource_parameter().update(
            parameterType="NUMBER_INTEGER", defaultValue=1, literals=[]
        ),
        ["train: ", "NUMBER_INTEGER", "only STRING"],
    ),
    "no display name": (
        lambda p: p.train.update(taskInfo={"name": "train"}),
        ["train: no display name"],
    ),
    "not cached": (
        lambda p: p.train.update(cachingOptions={}),
        ["train: is not cached"],
    ),
    "first task cached": (
        lambda p: p.tasks[p.first].update(cachingOptions={"enableCache": True}),
        ["is cached", "new data"],
    ),
    "cache key": (
        lambda p: p.train["cachingOptions"].update(cacheKey="mine"),
        ["train: cacheKey", "Remove it"],
    ),
    "no retries": (
        lambda p: p.train.pop("retryPolicy"),
        ["train: no retries"],
    ),
    "no retries of a CPU task": (
        lambda p: p.tasks["pseudo-label"]["retryPolicy"].update(maxRetryCount=0),
        ["pseudo-label: no retries"],
    ),
    "no backoff": (
        lambda p: p.tasks["pseudo-label"]["retryPolicy"].pop("backoffDuration"),
        ["pseudo-label: retries without backoff"],
    ),
    "image without a tag": (
        lambda p: p.container.update(image="reg.io:5000/macrec-gpu"),
        ["exec-train: image 'reg.io:5000/macrec-gpu' is not pinned"],
    ),
    "latest": (
        lambda p: p.container.update(image="macrec-gpu:latest"),
        ["exec-train: image 'macrec-gpu:latest' is not pinned"],
    ),
    "half a digest": (
        lambda p: p.container.update(image=DIGEST[:-1]),
        ["exec-train", "is not pinned"],
    ),
    "GPU without tolerations": (
        lambda p: p.gpu.pop("tolerations"),
        ["exec-train: a GPU limit without", "tolerations"],
    ),
    "GPU without node selector": (
        lambda p: p.gpu.pop("nodeSelector"),
        ["exec-train: a GPU limit without", "nodeSelector"],
    ),
    "tolerations without GPU": (
        lambda p: p.cpu.update(tolerations=[{"key": "nvidia.com/gpu"}]),
        ["exec-pseudo-label", "tolerations", "no GPU limit"],
    ),
    "node selector without GPU": (
        lambda p: p.cpu.update(nodeSelector={"labels": {"pool": "gpu"}}),
        ["exec-pseudo-label", "nodeSelector", "no GPU limit"],
    ),
    "GPU limit gone": (
        lambda p: p.container["resources"].pop("accelerator"),
        ["exec-train: no GPU limit", "nodeAffinity"],
    ),
    "CPU task on any node": (
        lambda p: p.cpu.pop("nodeAffinity"),
        ["exec-pseudo-label: no GPU limit", "nodeAffinity"],
    ),
    "another accelerator": (
        lambda p: p.container["resources"]["accelerator"].update(type="tpu", resourceType="tpu"),
        ["exec-train: the accelerator is not nvidia.com/gpu"],
    ),
    "accelerator without count": (
        lambda p: p.container["resources"]["accelerator"].pop("resourceCount"),
        ["exec-train: an accelerator without a count"],
    ),
    "no shared memory": (
        lambda p: p.gpu.pop("emptyDirMounts"),
        ["exec-train: a GPU task without /dev/shm"],
    ),
    "shared memory on the disk": (
        lambda p: p.gpu["emptyDirMounts"][0].pop("medium"),
        ["exec-train: a GPU task without /dev/shm"],
    ),
    "no timeout": (
        lambda p: p.gpu.pop("activeDeadlineSeconds"),
        ["exec-train: no timeout"],
    ),
    "no pull policy": (
        lambda p: p.gpu.pop("imagePullPolicy"),
        ["exec-train: no image pull policy"],
    ),
    "root": (
        lambda p: p.gpu["securityContext"].update(runAsUser=0),
        ["exec-train", "run as root"],
    ),
    "root allowed": (
        lambda p: p.gpu["securityContext"].update(runAsNonRoot=False),
        ["exec-train", "run as root"],
    ),
    "secret required": (
        lambda p: p.pods["exec-embed-text"]["secretAsEnv"][0].pop("optional"),
        ["exec-embed-text", "secret", "not optional"],
    ),
    "field that KFP does not know": (
        lambda p: p.train.update(retries=3),
        ["not a PipelineSpec and a PlatformSpec of KFP", "retries"],
    ),
    "pod field that KFP does not know": (
        lambda p: p.gpu.update(ephemeralStorage="1Gi"),
        ["not a PipelineSpec and a PlatformSpec of KFP", "ephemeralStorage"],
    ),
    "no tasks": (lambda p: p.spec.pop("root"), ["not a PipelineSpec", "root"]),
    "one document": (lambda p: p.documents.pop(), ["1 documents"]),
}


def test_the_committed_pipeline_has_no_problem():
    summary = lint(ROOT / "pipeline.yaml")
    assert "11 tasks" in summary and "no problem found" in summary


@pytest.mark.parametrize("options", [{}, {"embedding_shards": 2}, {"name": "encode"}])
def test_a_pipeline_of_the_project_has_no_problem(options):
    assert problems(list(yaml.safe_load_all(compile_pipeline(**options)))) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_reported(documents, fault):
    edit, parts = FAULTS[fault]
    pipeline = Pipeline(documents)
    edit(pipeline)
    lines = problems(pipeline.documents)
    assert any(all(part in line for part in parts) for line in lines), lines


def test_images_named_by_tag_pass_unless_digests_are_required(documents):
    tagged = problems(documents, digests=True)
    assert len(tagged) == len(documents[0]["deploymentSpec"]["executors"])
    assert all("is not pinned" in line for line in tagged)
    by_digest = compile_pipeline({"cpu": DIGEST, "gpu": DIGEST})
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
    [(None, "no such file"), ("a: [1\n", "not a compiled pipeline"), ("- a\n", "1 documents")],
)
def test_what_is_no_pipeline_is_refused(tmp_path, content, message):
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        lint(path)
