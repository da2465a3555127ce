"""Run parameters: typed, checked together, helpful when they are wrong."""

import pytest

from macrec.errors import UserError
from pipelines.parameters import resolve, run_parameters

DATA = {"catalog_items": "items.csv", "catalog_interactions": "log.csv"}


def test_values_take_the_types_of_the_stages():
    values = resolve(
        {**DATA, "quantizer_levels": "3", "text_centre": "false", "gpu_node_selector": {"a": "b"}}
    )
    assert values["quantizer_levels"] == 3
    assert values["text_centre"] is False
    assert values["gpu_node_selector"] == {"a": "b"}


def test_all_problems_come_in_one_message():
    with pytest.raises(UserError) as refused:
        resolve({"quantizer_level": 3, "quantizer_epochs": "many", "generator_dropout": 3})
    message = str(refused.value)
    assert "unknown parameter quantizer_level. Did you mean quantizer_levels?" in message
    assert "quantizer_epochs='many': expected int" in message
    assert "dropout is outside 0..1" in message
    assert "catalog_items is required" in message


def test_names_are_prefixed_and_unique():
    assert len(run_parameters()) > 60
    assert {"quantizer_levels", "catalog_min_interactions", "gpu_count"} <= set(run_parameters())
