"""component.yaml of every stage: it is what the code says, and other pipelines can load it."""

import pytest
import yaml
from kfp import compiler, components, dsl

from components.stages import STAGES
from macrec.core.artifact import Artifact
from pipelines.dag.compile import compile_component, component_path, locked_images
from pipelines.local.pipeline_runner import run_pipeline


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_committed_component_is_the_code(stage):
    text = component_path(stage).read_text()
    assert yaml.safe_load(text) == yaml.safe_load(compile_component(stage)), "run `make compile`"
    (executor,) = yaml.safe_load(text)["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == locked_images()[stage.pool]


@pytest.mark.slow
def test_a_foreign_pipeline_loads_two_stages_and_runs_them(sample, tmp_path):
    loaded = {
        stage.name: components.load_component_from_file(str(component_path(stage)))
        for stage in STAGES
    }

    @dsl.pipeline(name="foreign")
    def foreign(catalog: str, log: str):
        data = loaded["prepare_data"](catalog=catalog, interactions=log)
        loaded["embed_histories"](
            items=data.outputs["items"],
            sequences=data.outputs["sequences"],
            settings={"dim": 3},
        )

    path = tmp_path / "foreign.yaml"
    compiler.Compiler().compile(foreign, str(path))
    given = {
        "catalog": str(sample.data / "items.parquet"),
        "log": str(sample.data / "interactions.parquet"),
    }
    record = run_pipeline(given, tmp_path / "runs", path)
    assert [task.stage for task in record.stages] == ["prepare_data", "embed_histories"]
    made = Artifact.open(record.stage("embed_histories").folder / "history_embeddings")
    assert made.manifest["config"]["dim"] == 3
    assert made.verify().rows == Artifact.open(record.stage("prepare_data").folder / "items").rows
