"""The settings of our own systems in a bench: presets, data sets, ablations; and the wiring."""

import dataclasses
import json

import pyarrow as pa
import pytest

from components.run_form import flatten, form_arguments, preset_values, stage_values
from components.stages import stage_named
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.core.settings import build, fields
from macrec.core.task_note import TASK
from pipelines.bench import bench_stages, recipes
from pipelines.bench.dataset import _read_record
from pipelines.bench.recipes import ABLATIONS, RECIPES, STAGES, settings_of_system
from pipelines.dag.config_file import read_config
from pipelines.local import run_record
from tests.pipelines.conftest import ROOT

SHARED = {"max_history": 20, "seen_items": "auto", "top_k": 20}
CONFIGS = ROOT / "configs"
SCIENTIFIC = flatten(read_config(CONFIGS / "scientific.yaml"))


def settings(name, data=SCIENTIFIC, searched=None, assignments=None, shared=SHARED):
    return settings_of_system(
        name,
        data=data,
        origins={},
        searched=searched or {},
        assignments=assignments or {},
        shared=shared,
    )


def complete(values):
    """All settings of all stages, including defaults."""
    result = {}
    for name in STAGES:
        stage = stage_named(name)
        built = build(stage.settings, stage_values(values, stage))
        result |= {f"{name}.{f.name}": getattr(built, f.name) for f in dataclasses.fields(built)}
    return result


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_differs_from_macrec_only_in_its_change(name):
    searched = {"train.dropout": 0.3, "quantize.history_weight": 2.0}
    own = {"macrec": ["quantize.rq_weight=0.5"], "tiger": ["quantize.commitment=9"]}
    macrec, ablated = (
        complete(settings(n, searched=searched, assignments=own)) for n in ("macrec", name)
    )
    assert {n for n in macrec if macrec[n] != ablated[n]} == set(ABLATIONS[name].change)
    assert ablated["train.dropout"] == 0.3 and ablated["quantize.rq_weight"] == 0.5


def test_the_ablations_are_those_of_the_paper():
    assert complete(settings("no_con"))["quantize.contrastive_weights"] == ()
    assert complete(settings("no_align"))["quantize.align_weight"] == 0
    assert complete(settings("no_implicit"))["train.implicit_weight"] == 0
    tasks = complete(settings("no_explicit"))["train.tasks"]
    assert tasks and not [t for t in tasks if len(set(t.split("_")[1:])) > 1]  # none crosses over
    assert set(complete(settings("macrec"))["train.tasks"]) > set(tasks)
    assert complete(settings("one_direction"))["quantize.contrastive_side"] == "text"
    assert complete(settings("no_histories"))["embed_histories.dim"] == 0


@pytest.mark.parametrize("name", recipes.PRESET_SYSTEMS)
def test_the_data_set_overrides_the_preset_and_set_overrides_both(name):
    values = preset_values(RECIPES[name].preset)
    with_data, without_data = complete(settings(name)), complete(settings(name, data={}))
    for setting, value in values.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert without_data[setting] == expected
        if setting not in SCIENTIFIC:
            assert with_data[setting] == expected
    for setting, value in SCIENTIFIC.items():
        if setting in with_data:
            assert with_data[setting] == value
    own = {name: ["quantize.levels=2", "train.layers=1"]}
    shared = {**SHARED, "max_history": 7, "top_k": 10}
    changed = complete(settings(name, assignments=own, shared=shared))
    assert changed["quantize.levels"] == 2 and changed["train.layers"] == 1
    assert changed["train.max_history"] == 7 and changed["evaluate.top_k"] == 10


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("quantize.seed=3", "all systems of a bench have the same value. Use --seeds"),
        ("train.max_history=9", "Use --set max_history="),
        ("embed_text.max_tokens=9", "has no effect in a bench"),
        ("train.droput=0.3", "Did you mean train.dropout"),
        ("quantize.levels=many", "quantize.levels='many'"),
        ("quantize.levels", "write NAME=VALUE"),
    ],
)
def test_invalid_settings_are_rejected(assignment, message):
    with pytest.raises(UserError, match=message):
        settings("macrec", assignments={"macrec": [assignment]})


@pytest.mark.parametrize("config", ["scientific", "boxart", "sample"])
def test_a_run_provides_its_sizes_and_not_its_method(config):
    sizes = flatten(read_config(CONFIGS / f"{config}.yaml"))
    arguments = sizes | {"catalog_items": "items.parquet", "run_store": "s", "quantize.seed": 3}
    for preset in ("macrec", "paper", "tiger"):
        arguments |= {n: v for n, v in preset_values(preset).items() if n not in sizes}
    arguments |= {
        "embed_histories.dim": 0,
        "train.tasks": ("seq_text_text",),
        "cluster_gpu_count": "2",
    }
    values = recipes.settings_of_run(form_arguments(arguments))
    own = {n for n in sizes if n.startswith(("pseudo_label.", "quantize.", "train.", "evaluate."))}
    assert own <= set(values)
    assert set(values) - own <= recipes.SIZES  # of the preset of that run
    assert complete(settings("tiger", data=values))["quantize.hidden"] == (512, 256, 128)


def test_a_run_provides_the_sizes_of_its_preset():
    values = recipes.settings_of_run({"preset": "large", "settings_train": {"d_model": 512}})
    assert values["quantize.codebook_size"] == 1024
    assert (values["train.d_model"], values["train.d_ff"]) == (512, 2048)
    paper = recipes.settings_of_run({"preset": "paper"})
    assert paper["pseudo_label.clusters"] == 512 and "quantize.hidden" not in paper


def test_the_names_of_an_older_run_are_translated():
    old = {"quantizer_levels": 3, "label_clusters": 8, "generator_d_model": 32, "store": "s"}
    assert recipes.settings_of_run(old) == {
        "quantize.levels": 3,
        "pseudo_label.clusters": 8,
        "train.d_model": 32,
    }


def test_a_config_file_of_a_bench_chooses_no_preset(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: paper\ntrain: {layers: 1}\n")
    with pytest.raises(UserError, match="remove preset"):
        recipes.settings_of_files([path])
    path.write_text("train: {layers: 1}\n")
    assert recipes.settings_of_files([path]) == ({"train.layers": 1}, {"train.layers": str(path)})


def committed(path, **inputs):
    output = DatasetOutput(path)
    output.prepare()
    with output.dataset(pa.schema([pa.field("value", pa.int64())])) as out:
        out.write(pa.table({"value": [1]}))
    output.commit({"inputs": inputs})
    return Artifact.open(path)


def test_the_vectors_of_a_run_are_read_if_they_belong_to_its_items(tmp_path):
    items = committed(tmp_path / "items")
    run = tmp_path / "runs" / "1"
    for name, of in (("text", items.digest), ("image", "another catalogue")):
        task = run / f"embed-{name}"
        committed(task / f"{name}_embeddings", items=of)
        note = {"stage": f"embed_{name}", "started": "", "ended": "", "code": 0}
        (task / TASK).write_text(json.dumps(note))
    values = {"settings_train": {"layers": 1}}
    run_record.write(run_record.Record(tmp_path, "recommender", values, "", "", 0, None, "", []))
    vectors, arguments = _read_record(tmp_path, items)
    assert list(vectors) == ["text_embeddings"] and arguments == values


def test_every_input_comes_from_the_data_set_or_an_earlier_stage():
    available = set(bench_stages.REQUIRED_ARTIFACTS)
    for name in STAGES:
        wiring = bench_stages.read_wiring()[name]
        assert set(wiring.values()) <= available, name
        required = {p.name for p in stage_named(name).artifacts if p.required}
        assert required <= set(wiring), name
        outputs = {p.name for p in fields(stage_named(name).outputs)}
        assert not outputs & available  # a name stands for one artifact
        available |= outputs
