"""Saves and loads models: model.safetensors, config.json, history.json (the learning curve)."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from components.baselines.entries import ModelName
from components.baselines.interface import Data, Model, TrainedModel
from components.baselines.registry import baseline
from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
CURVE: Final = "history.json"


def save(folder: Path, name: ModelName, config: Any, data: Data, fitted: TrainedModel) -> None:
    """Write the model. Equal models produce identical bytes."""
    state = {key: np.ascontiguousarray(value) for key, value in fitted.model.state().items()}
    save_file(state, folder / WEIGHTS)
    content = {
        "model": name,
        "settings": dataclasses.asdict(config),
        "items": data.items,
        "max_history": data.max_history,
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n")
    (folder / CURVE).write_text(json.dumps(fitted.curve, indent=1, allow_nan=False) + "\n")


def load(fitted: Artifact) -> Model:
    """Restore the model of a finished stage on the CPU."""
    content = json.loads(fitted.file(CONFIG).read_bytes())
    module = baseline(content["model"])
    nobody = Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64))
    data = Data(content["items"], nobody, content["max_history"], {})
    state = load_file(fitted.file(WEIGHTS))
    return module.load(module.Config(**content["settings"]), data, state)
