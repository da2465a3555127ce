"""Extracts the best validated recommender of an interrupted training, and its learning curve."""

import json
from pathlib import Path
from typing import Any

from benchmarks.data import published
from components.train import spec as train
from components.train.auto_sizes import resolve_sizes
from components.train.inputs import read_codes
from macrec.core.artifact import FolderOutput
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import check
from macrec.generator.model import Recommender, build_model, save_recommender


def write(
    store: Path, data: published.Published, config: train.Settings, output: FolderOutput
) -> dict[str, float]:
    """Write the best weights of the latest checkpoint in the store; return metrics of the training.

    Args:
        store: artifact store of the training.
        data: training data.
        config: training settings.
        output: folder for the recommender and history.json.

    Raises:
        UserError: there is no checkpoint with validated weights.
    """
    folders = sorted((store / "checkpoints" / "train").glob("*"), key=lambda p: p.stat().st_mtime)
    checkpoint = Checkpoints(str(folders[-1])).latest() if folders else None
    state: dict[str, Any] = checkpoint.state if checkpoint else {"best": {}}
    check(bool(state["best"]), f"{store}: no checkpoint with validated weights. Train longer.")
    codes, vocabulary = read_codes(data.semantic_ids)
    sizes = resolve_sizes(config, items=len(codes[0])).model_size
    model = build_model(vocabulary, sizes)
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
