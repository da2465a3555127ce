"""`macrec settings`: what it lists, and the schema that config files are checked with."""

import json
import re

import jsonschema
import pytest
import yaml

from components.run_form import ENCODE, FORMS, PRESETS, RECOMMENDER
from components.stages import RECOMMEND, STAGES, TRAIN
from pipelines.cli import settings_page
from tests.pipelines.conftest import ROOT

FILES = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted(PRESETS.glob("*.yaml"))]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_setting_is_listed_once_the_everyday_ones_first(stage):
    text = "\n".join(settings_page.list_settings(stage))
    names = re.findall(r"^  (\S+)  \(", text, re.MULTILINE)
    everyday, expert = (
        {
            setting_name(stage, p.name)
            for p in stage.parameters
            if (p.name in stage.everyday) is is_in
        }
        for is_in in (True, False)
    )
    assert set(names[: len(everyday)]) == everyday
    assert sorted(names[len(everyday) :]) == sorted(
        expert | ({f"{stage.name}.force"} if stage.reusable else set())
    )
    assert ("Everyday settings:" in text) == bool(everyday)


def setting_name(stage, name):
    return "lists_top_k" if (stage, name) == (RECOMMEND, "top_k") else f"{stage.name}.{name}"


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.pipeline)
def test_a_listed_name_is_one_that_a_run_accepts(form):
    text = "\n".join(line for s in form.stages for line in settings_page.list_settings(s))
    names = set(re.findall(r"^  (\S+)  \(", text, re.MULTILINE))
    fixed = {"prepare_data.min_interactions"} if form is ENCODE else set()
    assert names - set(form.settings) == fixed
    assert {name for name in form.settings if "." in name} <= names


def test_a_line_has_the_default_and_what_is_allowed():
    text = "\n".join(settings_page.list_settings(TRAIN))
    assert "train.d_model  (default auto; auto or above 0)" in text
    assert "train.heads  (default auto; auto or above 0)" in text
    assert "train.tasks  (default seq_text_text,seq_image_image" in text
    assert "; some of seq_text_text, seq_image_image" in text
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
        ({"settings_train": {"d_model": 1}}, "settings_train"),
        ({"recommend": {"top_k": 5}}, "top_k"),
        ({"quantize": {"codebook_size": -1}}, "-1"),
        ({"cluster_gpu_count": 9}, "9"),
    ],
)
def test_the_schema_refuses_what_a_run_would(content, message):
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(content, settings_page.schema())


def test_a_file_may_leave_a_choice_to_the_data_and_numbers_unquoted():
    content = {"train": {"d_model": "auto", "force": "x"}, "cluster_gpu_count": 2}
    jsonschema.validate({**content, "evaluate": None, "lists_top_k": 5}, settings_page.schema())


def test_the_schema_is_valid_and_describes_everything():
    schema = settings_page.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    single = dict(schema["properties"])
    for name, value in schema["properties"].items():
        if value.get("type") == ["object", "null"]:
            assert value["additionalProperties"] is False
            del single[name]
            single |= {f"{name}.{setting}": v for setting, v in value["properties"].items()}
    assert set(single) == set(RECOMMENDER.settings) | set(ENCODE.settings)
    assert all(value["description"] for value in single.values())


def test_the_command_prints_it(macrec):
    assert json.loads(macrec("settings", "--schema").out) == settings_page.schema()
    assert "quantize.levels" in macrec("settings", "quantize").out
    refused = macrec("settings", "quantise")
    assert refused.code == 2 and "quantise" in refused.err
