"""The first task: settings, digests and the earlier run, or one message about what is wrong."""

import json

import pytest

from components.check_run import stage
from components.check_run.earlier_run import find_earlier_artifacts
from components.check_run.spec import PREVIOUS, SOURCES, Execution, Inputs, Outputs, Settings
from macrec.core.artifact import ParameterOutput
from macrec.core.errors import UserError
from macrec.core.settings import fields
from macrec.core.storage.uris import content_digest
from tests.jobs import job


def run(out, **form):
    out.mkdir()
    outputs = Outputs(**{p.name: p.kind(out / p.name) for p in fields(Outputs)})
    for output in vars(outputs).values():
        assert isinstance(output, ParameterOutput)
    stage.run(job(Settings(**form), Inputs(), outputs, Execution()))
    return {path.name: path.read_text() for path in out.iterdir()}


@pytest.fixture
def data(tmp_path):
    files = {
        "catalog_items": "items.csv",
        "catalog_interactions": "log.csv",
        "encoder_text": "model",
    }
    for name in files.values():
        (tmp_path / name).write_text(name)
    return {field: str(tmp_path / name) for field, name in files.items()}


def earlier(folder, *paths):
    for path in paths:
        (folder / path).mkdir(parents=True)
        (folder / path / "manifest.json").write_text("{}")


def test_it_writes_the_settings_of_every_stage_and_the_digests_of_the_data(tmp_path, data):
    form = {"preset": "small", "settings_train": {"epochs": 3.0}, "lists_top_k": 5}
    found = run(tmp_path / "out", **data, **form)
    train = json.loads(found["train_settings"])
    assert (train["epochs"], train["d_model"]) == (3, 64)
    assert json.loads(found["recommend_settings"]) == {"top_k": 5}
    assert (
        json.loads(found["evaluate_settings"]) == json.loads(found["encode_items_settings"]) == {}
    )
    for name in SOURCES:
        expected = content_digest(data[name]) if name in data else ""
        assert found[f"{name}_digest"] == expected
    for name in PREVIOUS:
        assert found[name] == found[f"{name}_digest"] == ""
    assert set(found) == {p.name for p in fields(Outputs)}


def test_equal_settings_give_equal_bytes_in_any_order(tmp_path, data):
    one = run(tmp_path / "a", **data, settings_train={"epochs": 3, "layers": 2})
    other = run(tmp_path / "b", **data, settings_train={"layers": 2.0, "epochs": "3"})
    assert one == other


def test_all_that_is_wrong_with_the_form_is_in_one_message(tmp_path, data):
    form = {"preset": "papr", "settings_train": {"layer": 2}, "settings_quantize": {"levels": "x"}}
    with pytest.raises(UserError) as refused:
        run(tmp_path / "out", **(data | {"encoder_text": ""}), **form)
    message = str(refused.value)
    assert "preset='papr'" in message and "train.layers?" in message
    assert "quantize.levels='x'" in message and "vectors to quantize" in message


def test_all_absent_data_are_in_one_message(tmp_path, data):
    absent = {"catalog_items": str(tmp_path / "no.csv"), "encoder_text": str(tmp_path / "none")}
    with pytest.raises(UserError) as refused:
        run(tmp_path / "out", **(data | absent))
    assert "catalog_items=" in str(refused.value) and "encoder_text=" in str(refused.value)


KFP = (
    "quantize/17/quantizer",
    "quantize/17/latents",
    "resolve-collisions/18/semantic_ids",
    "train/19/recommender",
)


def test_the_artifacts_of_a_kfp_run_are_found_in_its_folder(tmp_path, data):
    earlier(tmp_path / "run", *KFP)
    found = run(tmp_path / "out", **data, run_previous=str(tmp_path / "run"))
    for name, path in zip(
        ("previous_quantizer", "previous_latents", "previous_semantic_ids"), KFP, strict=False
    ):
        assert found[name] == str(tmp_path / "run" / path)
        assert found[f"{name}_digest"] == content_digest(found[name])


def test_those_of_a_local_run_stand_in_its_version_file(tmp_path):
    artifacts = {"semantic_ids": "runs/1/a", "latents": "runs/1/b", "quantizer": "runs/1/c"}
    (tmp_path / "version.json").write_text(json.dumps({"artifacts": artifacts, "settings": {}}))
    found = find_earlier_artifacts(str(tmp_path))
    assert found == {name: str(tmp_path / path) for name, path in artifacts.items()}
    (tmp_path / "version.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        find_earlier_artifacts(str(tmp_path))


def test_the_newer_ids_of_an_encoding_run_are_taken(tmp_path):
    earlier(tmp_path, *KFP, "encode-items/20/semantic_ids", "encode-items/20/latents")
    found = find_earlier_artifacts(str(tmp_path))
    assert found["semantic_ids"].endswith("encode-items/20/semantic_ids")
    assert found["quantizer"].endswith("quantize/17/quantizer")


def test_a_folder_without_a_run_or_with_two_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="semantic_ids"):
        find_earlier_artifacts(str(tmp_path / "empty"))
    earlier(tmp_path / "two", *KFP, "quantize/27/quantizer")
    with pytest.raises(UserError, match="2 versions of quantizer"):
        find_earlier_artifacts(str(tmp_path / "two"))
