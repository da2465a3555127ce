"""`macrec settings`: what it lists, and the schema that config files are checked with."""

import json

import jsonschema
import pytest
import yaml

from components.run_form import PRESETS, RECOMMENDER
from components.stages import STAGES, TRAIN
from pipelines.cli import settings_page
from tests.pipelines.conftest import ROOT

FILES = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted(PRESETS.glob("*.yaml"))]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_setting_is_listed_once_the_everyday_ones_first(stage):
    lines = list(settings_page.list_settings(stage))
    listed = [line.split()[0] for line in lines if line.startswith(f"  {stage.name}.")]
    assert sorted(listed) == sorted(f"{stage.name}.{p.name}" for p in stage.parameters)
    names = [name.partition(".")[2] for name in listed]
    assert set(names[: len(stage.everyday)]) == set(stage.everyday)


def test_a_line_has_the_default_and_what_is_allowed():
    text = "\n".join(settings_page.list_settings(TRAIN))
    assert "train.d_model  (default auto)" in text
    assert "train.dropout  (default 0.1; at least 0 and at most 1)" in text
    assert "train.encoder  (default full; full | causal)" in text


def test_the_fields_of_the_form_are_listed():
    text = "\n".join(settings_page.list_fields())
    assert "catalog_items  (required)" in text
    for name in RECOMMENDER.fields:
        assert (f"  {name}  (" in text) is not name.startswith("settings_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_own_files_follow_the_schema(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), settings_page.schema())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trian": {}}, "trian"),
        ({"train": {"d_modl": 1}}, "d_modl"),
        ({"train": {"dropout": 2}}, "maximum"),
        ({"train": {"epochs": "many"}}, "many"),
        ({"preset": "papr"}, "papr"),
    ],
)
def test_the_schema_refuses_what_a_run_would(content, message):
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(content, settings_page.schema())


def test_the_command_prints_it(macrec):
    assert json.loads(macrec("settings", "--schema").out) == settings_page.schema()
    assert "quantize.levels" in macrec("settings", "quantize").out
    refused = macrec("settings", "quantise")
    assert refused.code == 2 and "quantise" in refused.err
