"""The settings of our own systems in a bench: presets, data sets, ablations; and the wiring."""

import dataclasses
import json

import pyarrow as pa
import pytest

from components.run_form import flatten, form_arguments, stage_values
from components.stages import stage_named
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.core.settings import build, fields
from macrec.core.task_note import TASK
from pipelines.bench import bench_stages, recipes
from pipelines.bench.dataset import _of_record
from pipelines.bench.recipes import ABLATIONS, RECIPES, STAGES, preset, settings_of
from pipelines.dag.config_file import read_config
from pipelines.local import run_record
from tests.pipelines.conftest import ROOT

SHARED = {"max_history": 20, "seen_items": "auto", "top_k": 20}
CONFIGS = ROOT / "configs"
SCIENTIFIC = flatten(read_config(CONFIGS / "scientific.yaml"))


def settings(name, data=SCIENTIFIC, found=None, own=None, shared=SHARED):
    given = {"data": data, "origins": {}, "found": found or {}, "own": own or {}, "shared": shared}
    return settings_of(name, **given)


def configs(values):
    """All settings of all stages, those at their defaults too."""
    result = {}
    for name in STAGES:
        stage = stage_named(name)
        built = build(stage.settings, stage_values(values, stage))
        result |= {f"{name}.{f.name}": getattr(built, f.name) for f in dataclasses.fields(built)}
    return result


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_names_and_nothing_else(name):
    found = {"train.dropout": 0.3, "quantize.history_weight": 2.0}
    own = {"macrec": ["quantize.rq_weight=0.5"], "tiger": ["quantize.commitment=9"]}
    whole, ablated = (configs(settings(n, found=found, own=own)) for n in ("macrec", name))
    differing = {n for n in whole if whole[n] != ablated[n]}
    assert differing == set(ABLATIONS[name].changed)
    assert ablated["train.dropout"] == 0.3 and ablated["quantize.rq_weight"] == 0.5


def test_what_the_ablations_take_away_is_what_the_paper_calls_so():
    assert configs(settings("no_con"))["quantize.contrastive_weights"] == ()
    assert configs(settings("no_align"))["quantize.align_weight"] == 0
    assert configs(settings("no_implicit"))["train.implicit_weight"] == 0
    tasks = configs(settings("no_explicit"))["train.tasks"]
    assert tasks and not [t for t in tasks if len(set(t.split("_")[1:])) > 1]  # none crosses over
    assert set(configs(settings("macrec"))["train.tasks"]) > set(tasks)
    assert configs(settings("one_direction"))["quantize.contrastive_side"] == "text"
    assert configs(settings("no_histories"))["embed_histories.dim"] == 0


@pytest.mark.parametrize("name", recipes.OWN)
def test_a_preset_counts_below_the_data_set_and_that_below_set(name):
    lines = preset(RECIPES[name].preset)
    found, plain = configs(settings(name)), configs(settings(name, data={}))
    for line, value in lines.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert plain[line] == expected
        if line not in SCIENTIFIC:
            assert found[line] == expected
    for line, value in SCIENTIFIC.items():
        if line in found:
            assert found[line] == value
    own = {name: ["quantize.levels=2", "train.layers=1"]}
    changed = configs(settings(name, own=own, shared={**SHARED, "max_history": 7, "top_k": 10}))
    assert changed["quantize.levels"] == 2 and changed["train.layers"] == 1
    assert changed["train.max_history"] == 7 and changed["evaluate.top_k"] == 10


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("quantize.seed=3", "the same for all systems; use --seeds"),
        ("train.max_history=9", "use --set max_history="),
        ("embed_text.max_tokens=9", "changes nothing in a bench"),
        ("train.droput=0.3", "Did you mean train.dropout"),
        ("quantize.levels=many", "quantize.levels='many'"),
    ],
)
def test_settings_that_cannot_be_are_refused(own, message):
    with pytest.raises(UserError, match=message):
        settings("macrec", own={"macrec": [own]})


@pytest.mark.parametrize("config", ["scientific", "boxart", "sample"])
def test_of_a_run_the_sizes_are_taken_and_the_method_is_not(config):
    sizes = flatten(read_config(CONFIGS / f"{config}.yaml"))
    arguments = sizes | {"catalog_items": "items.parquet", "run_store": "s", "quantize.seed": 3}
    for name in ("macrec", "paper", "tiger"):
        arguments |= {n: v for n, v in preset(name).items() if n not in sizes}
    arguments |= {
        "embed_histories.dim": 0,
        "train.tasks": ("seq_text_text",),
        "cluster_gpu_count": "2",
    }
    taken = recipes.settings_of_run(form_arguments(arguments))
    own = {n for n in sizes if n.startswith(("pseudo_label.", "quantize.", "train.", "evaluate."))}
    assert own <= set(taken)
    assert set(taken) - own <= recipes.SIZES  # of the preset of that run
    assert configs(settings("tiger", data=taken))["quantize.hidden"] == (512, 256, 128)


def committed(path, **inputs):
    output = DatasetOutput(path)
    output.prepare()
    with output.dataset(pa.schema([pa.field("value", pa.int64())])) as out:
        out.write(pa.table({"value": [1]}))
    output.commit({"inputs": inputs})
    return Artifact.open(path)


def test_the_vectors_of_a_run_are_found_if_they_are_those_of_its_items(tmp_path):
    items = committed(tmp_path / "items")
    run = tmp_path / "runs" / "1"
    for name, of in (("text", items.digest), ("image", "another catalogue")):
        task = run / f"embed-{name}"
        committed(task / f"{name}_embeddings", items=of)
        note = {"stage": f"embed_{name}", "started": "", "ended": "", "code": 0}
        (task / TASK).write_text(json.dumps(note))
    given = {"settings_train": {"layers": 1}}
    ended = run_record.Record(tmp_path, "recommender", given, "", "", 0, None, "", [])
    run_record.write(ended)
    found, arguments = _of_record(tmp_path, items)
    assert list(found) == ["text_embeddings"] and arguments == given


def test_every_input_is_given_or_made_by_a_stage_before():
    there = set(bench_stages.GIVEN)
    for name in STAGES:
        wired = bench_stages.wiring()[name]
        assert set(wired.values()) <= there, name
        optional = {
            n for n in vars(stage_named(name).inputs) if not n.startswith("_")
        }  # have a default
        needed = {p.name for p in stage_named(name).artifacts} - optional
        assert needed <= set(wired), name
        made = {p.name for p in fields(stage_named(name).outputs)}
        assert not made & there  # a name stands for one artifact
        there |= made
