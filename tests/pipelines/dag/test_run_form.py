"""Run parameters: typed, checked together, helpful when they are wrong."""

import pytest

from macrec.core.errors import UserError
from pipelines.cli import main
from pipelines.dag.run_form import resolve, run_parameters
from pipelines.local.run import source_problems

DATA = {"catalog_items": "items.csv", "catalog_interactions": "log.csv"}


def test_values_take_the_types_of_the_stages():
    values = resolve(
        {**DATA, "quantizer_levels": "3", "text_centre": "false", "gpu_node_selector": {"a": "b"}}
    )
    assert values["quantizer_levels"] == 3
    assert values["text_centre"] is False
    assert values["gpu_node_selector"] == {"a": "b"}


@pytest.mark.parametrize("given", [2, "2"])
def test_a_number_of_gpus_is_text_for_kfp(given):
    assert resolve({**DATA, "gpu_count": given})["gpu_count"] == "2"


@pytest.mark.parametrize("given", ["two", 9, -1, 1.5])
def test_a_number_of_gpus_that_no_node_has_is_refused(given):
    with pytest.raises(UserError, match="gpu_count="):
        resolve({**DATA, "gpu_count": given})


def test_all_problems_come_in_one_message():
    with pytest.raises(UserError) as refused:
        resolve({"quantizer_level": 3, "quantizer_epochs": "many", "generator_dropout": 3})
    message = str(refused.value)
    assert "unknown parameter quantizer_level. Did you mean quantizer_levels?" in message
    assert "quantizer_epochs='many': expected int" in message
    assert "dropout is outside 0..1" in message
    assert "catalog_items is required" in message


def test_a_bad_value_is_told_with_the_file_it_is_from():
    given = {
        "quantizer_level": 3,
        "quantizer_epochs": "many",
        "generator_dropout": 3,
        "generator_layers": 2,
        "text_max_tokens": 0,
    }
    origins = dict.fromkeys(["quantizer_level", "quantizer_epochs"], "data.yaml")
    origins |= dict.fromkeys(["generator_dropout", "generator_layers"], "method.yaml")
    with pytest.raises(UserError) as refused:
        resolve({**DATA, **given}, origins)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert "Did you mean quantizer_levels? (quantizer_level is from data.yaml)" in lines[0]
    assert "expected int. (quantizer_epochs is from data.yaml)" in lines[1]
    assert "max_tokens=0" in lines[2] and "from" not in lines[2]
    assert lines[3].endswith("(generator_dropout is from method.yaml)")
    assert lines[3].count("train:") == 1


def config_files(folder, *contents):
    paths = [folder / f"{name}.yaml" for name, _ in zip("abc", contents, strict=False)]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return [part for path in paths for part in ("--config", str(path))]


def given(*arguments):
    flags = ["--items", "items.csv", "--interactions", "log.csv"]
    return main._given(main._parser().parse_args(["validate", *flags, *arguments]))


def test_configurations_compose_and_the_later_one_wins(tmp_path):
    files = config_files(
        tmp_path,
        "quantizer_levels: 4\nquantizer_epochs: 9\ntext_max_tokens: 7\ngenerator_layers: 2\n",
        "quantizer_levels: 3\ngenerator_tasks: [seq_text_text]\ngenerator_layers: 3\n",
    )
    values = given(*files, "--set", "generator_layers=1")
    assert values == {
        "catalog_items": "items.csv",
        "catalog_interactions": "log.csv",
        "quantizer_levels": 3,
        "quantizer_epochs": 9,
        "text_max_tokens": 7,
        "generator_tasks": ("seq_text_text",),
        "generator_layers": 1,
    }
    assert given(*files[2:], *files[:2])["quantizer_levels"] == 4


def test_the_file_of_the_value_that_counts_is_told(tmp_path):
    files = config_files(tmp_path, "text_max_tokens: 0\n", "text_max_tokens: -1\n")
    with pytest.raises(UserError, match=r"max_tokens=-1.*text_max_tokens is from .*b\.yaml"):
        given(*files)
    with pytest.raises(UserError, match="max_tokens=-2") as refused:
        given(*files, "--set", "text_max_tokens=-2")
    assert ".yaml" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1\n", "no YAML"), ("- a\n", "expected lines NAME"), ("1: 2\n", "parameter 1.*a.yaml")],
)
def test_a_config_file_that_is_none(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as refused:
        given(*config_files(tmp_path, content))
    assert "a.yaml" in str(refused.value)


TEXT, IMAGE = {"text_model": "hub:t/t"}, {"image_model": "hub:i/i", "catalog_images": "gs://b/i"}


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        (TEXT, []),
        (IMAGE, []),
        ({**TEXT, **IMAGE, "quantizer_modalities": "text"}, []),
        ({}, ["give --text-model or --text-embeddings or --image-model or --image-embeddings."]),
        ({**TEXT, "text_embeddings": "gs://b/e"}, ["--text-embeddings (ready vectors), not both"]),
        (
            {**IMAGE, "quantizer_modalities": "text"},
            ["quantizer_modalities=text): give --text-model or --text-embeddings."],
        ),
        ({"image_model": "hub:i/i"}, ["--image-model needs --images"]),
    ],
)
def test_one_modality_at_least_and_one_source_of_each(values, messages):
    problems = source_problems(values)
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem


def test_names_are_prefixed_and_unique():
    assert len(run_parameters()) > 60
    assert {"quantizer_levels", "catalog_min_interactions", "gpu_count"} <= set(run_parameters())
