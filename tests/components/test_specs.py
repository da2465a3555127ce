"""The settings of every stage: types, ranges, and values that the user may give as text."""

from typing import Any

import pytest

from components.pseudo_label import spec as pseudo_label
from components.quantize import spec as quantize
from components.stages import STAGES, stage_named
from components.train import spec as train
from macrec.core.errors import UserError
from macrec.core.settings import build, fields
from macrec.core.stage import SHARD
from macrec.core.stage_command import read_settings

each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


@each_stage
def test_everyday_settings_exist(stage):
    settings = {parameter.name for parameter in fields(stage.settings)}
    assert set(stage.everyday) <= settings - {SHARD} and len(stage.everyday) <= 8
    assert len(set(stage.everyday)) == len(stage.everyday)
    assert stage.sharded == (SHARD in settings)


@each_stage
def test_the_defaults_are_valid(stage):
    for cls in (stage.settings, stage.execution):
        defaults = {parameter.name: parameter.default for parameter in fields(cls)}
        assert vars(cls(**defaults)) == defaults


@each_stage
def test_tuples_may_be_given_as_text(stage):
    for parameter in fields(stage.settings):
        if isinstance(parameter.default, tuple):
            text = ",".join(map(str, parameter.default))
            if text or parameter.name not in ("fusion_weights", "tasks"):
                made = build(stage.settings, {parameter.name: text})
                assert getattr(made, parameter.name) == parameter.default


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (pseudo_label.Settings, "clusters"),
        *((quantize.Settings, name) for name in ("codebook_size", "levels")),
        *((train.Settings, n) for n in ("d_model", "d_ff", "d_kv", "layers", "heads")),
        (train.Settings, "learning_rate"),
    ],
)
def test_automatic_sizes_may_be_given_as_text(cls, name):
    assert getattr(build(cls, {name: "auto"}), name) == 0
    assert getattr(build(cls, {name: "16"}), name) == 16
    assert getattr(build(cls, {name: 16.0}), name) == 16  # KFP's JSON has no integers
    for wrong in ("automatic", "-1"):
        with pytest.raises(UserError, match=f"^{name}='{wrong}': "):
            build(cls, {name: wrong})


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("prepare_data", "min_interactions", -1),
        ("prepare_data", "title_column", ""),
        ("embed_text", "max_tokens", 0),
        ("embed_text", "batch_tokens", -1),
        ("embed_image", "max_bad_images", 1.5),
        ("embed_image", "batch_images", 0),
        ("embed_histories", "window", 0),
        ("pseudo_label", "passes", 0),
        ("pseudo_label", "clusters", 1),
        ("quantize", "batch_size", 1),
        ("quantize", "codebook_size", 1),
        ("quantize", "codebook_size", 2**15 + 1),
        ("quantize", "tokenizer", "vae"),
        ("train", "max_history", 2.5),
        ("train", "average_decay", 1.0),
        ("train", "checkpoint_seconds", -1),
        ("train", "device", "gpu"),
        ("evaluate", "top_k", 9),
        ("evaluate", "batch_size", -1),
        ("recommend", "neighbour_weight", 1.0),
        ("recommend", "successor_share", -0.5),
        ("recommend", "device", "cuda:"),
        ("encode_items", "max_changed", 2),
        ("baselines", "top_k", 5),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(stage, name, value):
    declared = stage_named(stage)
    (cls,) = (c for c in (declared.settings, declared.execution) if name in c.__dataclass_fields__)
    with pytest.raises(UserError) as error:
        cls(**{name: value})
    assert str(error.value).startswith(f"{name}={value!r}: ")


def test_all_values_out_of_range_are_named_at_once():
    with pytest.raises(UserError, match=r"^dropout=2\.0: .*; epochs=0: .*"):
        train.Settings(dropout=2.0, epochs=0)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device):
    assert train.Execution(device=device).device == device


@pytest.mark.parametrize(
    ("name", "hint"), [("d_modl", "Did you mean d_model"), ("zzz", "macrec settings train")]
)
def test_an_unknown_setting_is_refused(name, hint):
    with pytest.raises(UserError, match=rf"^train: no setting {name}\b.*{hint}"):
        read_settings(train.STAGE, {name: 1})
    with pytest.raises(UserError, match=f"{name}=1"):
        train.Settings(**dict[str, Any]({name: 1}))
