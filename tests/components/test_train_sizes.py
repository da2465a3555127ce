"""Automatic sizes of the generator: chosen from the number of items, unless they are given."""

import dataclasses
import json
import logging

import pytest

from components.train.auto_sizes import LARGE, SMALL, resolve_sizes
from components.train.spec import Settings
from tests import small_generator
from tests.small_generator import catalogue_codes, planted_histories, run_stage, stage_inputs


def sizes(config):
    return {name: getattr(config, name) for name in SMALL}


@pytest.mark.parametrize(
    ("items", "expected"), [(1, SMALL), (239, SMALL), (9_999, SMALL), (10_000, LARGE)]
)
def test_sizes_by_the_number_of_items(items, expected):
    found = sizes(resolve_sizes(Settings(), items))
    assert found == expected
    assert [type(size) for size in found.values()] == [int] * 5 + [float]


def test_the_choice_is_logged_in_one_line(caplog):
    with caplog.at_level(logging.INFO, "macrec"):
        resolve_sizes(Settings(), 239)
    assert caplog.messages == [
        "train: 239 items: d_model 64, d_ff 256, d_kv 16, layers 2, heads 4, "
        "learning_rate 0.003 (auto)"
    ]


def test_given_sizes_are_kept(caplog):
    given = {"d_model": 32, "layers": 3, "learning_rate": 0.01}
    config = resolve_sizes(Settings(**given, epochs=7), 20_000)
    assert sizes(config) == {**LARGE, **given} and config.epochs == 7
    with caplog.at_level(logging.INFO, "macrec"):
        assert resolve_sizes(config, 5) == config  # nothing is left to choose
    assert not caplog.messages


def test_the_stage_trains_with_the_sizes_it_chose(tmp_path):
    inputs = stage_inputs(tmp_path, planted_histories(10), catalogue_codes())
    automatic = dict.fromkeys(SMALL, 0) | {"layers": 1}
    config = dataclasses.replace(small_generator.SMALL, **automatic, epochs=1)
    _, files = run_stage(tmp_path / "auto", config, inputs)
    model = json.loads(files["config.json"])
    assert (model["d_model"], model["d_ff"], model["d_kv"]) == (64, 256, 16)
    assert (model["num_layers"], model["num_decoder_layers"], model["num_heads"]) == (1, 1, 4)
    assert json.loads(files["history.json"])[0]["learning_rate"] == 3e-3
    given = dataclasses.replace(config, **SMALL | {"layers": 1})
    assert run_stage(tmp_path / "given", given, inputs)[1] == files
