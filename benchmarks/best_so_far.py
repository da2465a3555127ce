"""Extracts the best validated recommender of an interrupted training, and its learning curve."""

import json
from pathlib import Path
from typing import Any

from benchmarks import published
from components.train import spec as train
from components.train.inputs import read_codes
from macrec.core.artifact import FolderOutput
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import check
from macrec.generator.model import Recommender, build_model, save_recommender


def write(
    store: Path, made: published.Published, config: train.Settings, output: FolderOutput
) -> dict[str, float]:
    """Write the best weights of the latest checkpoint in the store; return metrics of the training.

    Args:
        store: artifact store of the training.
        made: training data.
        config: training settings.
        output: folder for the recommender and history.json.

    Raises:
        UserError: there is no checkpoint with validated weights.
    """
    folders = sorted((store / "checkpoints" / "train").glob("*"), key=lambda p: p.stat().st_mtime)
    found = Checkpoints(str(folders[-1])).latest() if folders else None
    state: dict[str, Any] = found.state if found else {"best": {}}
    check(bool(state["best"]), f"{store}: no checkpoint of a training that was validated already.")
    codes, vocabulary = read_codes(made.semantic_ids)
    model = build_model(vocabulary, config.model_size)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    assert weights.keys() == state["best"].keys()
    for name, weight in weights.items():
        weight.copy_(state["best"][name])
    numbers = state["numbers"]
    output.prepare()
    save_recommender(output.path, Recommender(model, vocabulary, *codes, config.max_history))
    (output.path / "history.json").write_text(json.dumps(numbers["curve"]) + "\n")
    output.commit({"stage": "train", "config": {}})
    return {
        "validation_ndcg_at_10": numbers["best_ndcg"],
        "best_epoch": numbers["best_epoch"],
        "epochs": numbers["epoch"],
        "steps": numbers["step"],
        "rows_per_second": numbers["rows"] / max(numbers["seconds"], 1e-9),
    }
