"""The run form: names, types, presets, and one message about everything that is wrong."""

import pytest
import yaml

from components.check_run.spec import Outputs, Settings
from components.run_form import (
    ENCODE,
    FORMS,
    PRESETS,
    RECOMMENDER,
    check_form,
    data_problems,
    flatten,
    form_arguments,
    resolve,
    with_preset,
)
from macrec.core.errors import UserError
from macrec.core.settings import fields

DATA = {"catalog_items": "items.csv", "catalog_interactions": "log.csv"}
TEXT = {"encoder_text": "hub:t/t"}
IMAGE = {"encoder_image": "hub:i/i", "catalog_images": "gs://b/i"}


def problems(values, origins=None):
    with pytest.raises(UserError) as refused:
        resolve({**DATA, **values}, origins=origins)
    first, *rest = str(refused.value).splitlines()
    assert first.startswith(str(len(rest)))
    return rest


def test_values_take_the_types_of_the_stages():
    values = resolve(
        {
            **DATA,
            "quantize.levels": "3",
            "embed_text.centre": "false",
            "quantize.hidden": "64, 32",
            "train.epochs": 2.0,  # KFP's JSON knows only floats
            "cluster_gpu_node_selector": {"a": "b"},
        }
    )
    assert values["quantize.levels"] == 3
    assert values["embed_text.centre"] is False
    assert values["quantize.hidden"] == (64, 32)
    assert values["train.epochs"] == 2 and isinstance(values["train.epochs"], int)
    assert values["cluster_gpu_node_selector"] == {"a": "b"}


@pytest.mark.parametrize("given", [2, "2"])
def test_a_number_of_gpus_is_text_for_kfp(given):
    assert resolve({**DATA, "cluster_gpu_count": given})["cluster_gpu_count"] == "2"


@pytest.mark.parametrize("given", ["two", 9, -1, 1.5])
def test_a_number_of_gpus_that_no_node_has_is_refused(given):
    assert "cluster_gpu_count=" in problems({"cluster_gpu_count": given})[0]


def test_all_problems_come_in_one_message():
    with pytest.raises(UserError) as refused:
        resolve({"quantize.level": 3, "quantize.epochs": "many", "train.dropout": 3})
    message = str(refused.value)
    assert "quantize.level. Did you mean quantize.levels?" in message
    assert "quantize.epochs='many'" in message
    assert "train.dropout=3" in message
    assert "catalog_items is required" in message


def test_settings_that_contradict_each_other_are_refused_with_their_stage():
    found = problems({"train.encoder": "causal", "train.augment": False})
    assert found[0].lstrip().startswith("train:") and "augment" in found[0]


def test_a_setting_is_checked_on_top_of_the_preset():
    assert with_preset({"preset": "paper"})["quantize.codebook_update"] == "gradient"
    values = {"preset": "paper", "quantize.codebook_update": "ema"}
    assert "align_gradient" in problems(values)[0]


def test_a_problem_names_the_file_of_its_value():
    values = {"quantize.level": 3, "quantize.epochs": "many", "embed_text.max_tokens": 0}
    found = problems(values, dict.fromkeys(["quantize.level", "quantize.epochs"], "data.yaml"))
    assert found[0].endswith("(in data.yaml)") and "quantize.level." in found[0]
    assert found[1].endswith("(in data.yaml)") and "quantize.epochs" in found[1]
    assert "embed_text.max_tokens=0" in found[2] and ".yaml" not in found[2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("generator_d_model", "train.d_model"),
        ("history_dim", "embed_histories.dim"),
        ("label_clusters", "pseudo_label.clusters"),
        ("catalog_user_id_column", "prepare_data.user_id_column"),
        ("text_model", "encoder_text"),
        ("image_embeddings", "vectors_image"),
        ("store", "run_store"),
        ("previous_latents", "run_previous"),
        ("recommend_top_k", "lists_top_k"),
        ("recommend.top_k", "lists_top_k"),
        ("d_model", "train.d_model"),
    ],
)
def test_a_name_of_an_earlier_version_is_answered_with_the_new_one(old, new):
    assert new in problems({old: 1})[0]


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        (TEXT, []),
        (IMAGE, []),
        ({**TEXT, **IMAGE, "quantize.modalities": "text"}, []),
        ({}, ["encoder_text or vectors_text or encoder_image or vectors_image"]),
        ({**TEXT, "vectors_text": "gs://b/e"}, ["encoder_text or vectors_text, not both"]),
        ({**IMAGE, "quantize.modalities": "text"}, ["encoder_text or vectors_text"]),
        ({"encoder_image": "hub:i/i"}, ["encoder_image needs catalog_images"]),
        ({**TEXT, "quantize.mode": "frozen"}, ["quantize.mode=frozen needs run_previous"]),
    ],
)
def test_one_modality_at_least_and_one_source_of_each(values, messages):
    found = list(data_problems(values))
    assert len(found) == len(messages)
    for problem, message in zip(found, messages, strict=True):
        assert message in problem


def test_the_first_task_finds_the_problems_of_the_form_and_of_the_data_at_once():
    with pytest.raises(UserError) as refused:
        check_form({**DATA, "settings_train": {"layer": 2}}, RECOMMENDER)
    assert "Did you mean train.layers?" in str(refused.value)
    assert "vectors to quantize" in str(refused.value)


def test_every_stage_receives_its_own_settings_on_top_of_the_preset():
    arguments = {
        **DATA,
        **TEXT,
        "preset": "small",
        "lists_top_k": 7,
        "settings_train": {"d_ff": 99, "force": "today"},
        "settings_quantize": {"hidden": [8, 4]},
    }
    found = check_form(arguments, RECOMMENDER)
    assert set(found) == {stage.name for stage in RECOMMENDER.stages}
    assert found["train"]["d_ff"] == 99 and found["train"]["layers"] == 2
    assert found["train"]["force"] == "today"
    assert found["quantize"] == {"hidden": [8, 4]}
    assert found["recommend"] == {"top_k": 7}
    assert found["evaluate"] == {}


def test_new_items_are_encoded_without_a_minimum_of_interactions():
    found = check_form({**DATA, **TEXT, "run_previous": "gs://b/r"}, ENCODE)
    assert found["prepare_data"] == {"min_interactions": 0}
    with pytest.raises(UserError, match="min_interactions"):
        resolve({**DATA, "prepare_data.min_interactions": 5}, ENCODE)


def test_arguments_and_names_are_inverse():
    values = {**DATA, "train.epochs": 3, "quantize.levels": 4, "preset": "tiger"}
    arguments = form_arguments(values)
    assert arguments["settings_train"] == {"epochs": 3}
    assert flatten(arguments) == values
    assert flatten({**arguments, "settings_evaluate": {}}) == values
    assert flatten({"train": {"epochs": 3}, "quantize": None}) == {"train.epochs": 3}


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_is_valid_and_a_choice(path):
    resolve({**DATA, **flatten(yaml.safe_load(path.read_text()))})
    assert path.stem in RECOMMENDER.fields["preset"].choices


def test_every_choice_of_preset_but_auto_is_a_file():
    choices = set(RECOMMENDER.fields["preset"].choices)
    assert choices - {"auto"} == {path.stem for path in PRESETS.glob("*.yaml")}


def test_the_form_fits_one_page():
    assert all(len(form.fields) <= 30 for form in FORMS.values())
    stages = {stage.name for form in FORMS.values() for stage in form.stages}
    declared = {p.name.removeprefix("settings_") for p in fields(Settings)}
    written = {p.name.removesuffix("_settings") for p in fields(Outputs)}
    assert stages <= declared and stages <= written
