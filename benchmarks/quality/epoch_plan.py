"""Plans how many epochs fit into a given time, from measurements on a sample of users.

The decay is part of the training, so a training that is cut off is incomplete. The number of epochs
is therefore chosen in advance. The epochs at the constant rate, the decay after them, and the
validations of both together take the given time.
"""

import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import shared
from benchmarks.data import published
from components.train import spec as train
from components.train.learning_rate import decay_epochs
from components.train.rows import training_rows
from macrec.core.progress import log
from macrec.data.sequences import Sequences, read_sequences

TRIAL_USERS = 1000
PLANNED = 0.95  # fraction of the time; a short trial is inexact


class Trial(NamedTuple):
    """Measured training speed, and the seconds of one validation of all validation users."""

    rows_per_second: float
    validation_seconds: float


def plan(
    work: Path,
    minutes: float,
    data: published.Published,
    config: train.Settings,
    execution: train.Execution,
) -> dict[str, float]:
    """Return the number of epochs that fit into `minutes`, at least one, and the measurements.

    A plan that was stored for the same `minutes` is reused.
    """
    file = work / "plan.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    if earlier.get("minutes") == minutes:
        return earlier
    sequences = read_sequences(data.sequences, data.items.rows)
    trial = _trial(work, sequences, data, config, execution)
    epoch_seconds = _rows(sequences, config) / trial.rows_per_second

    def seconds(epochs: int) -> float:
        phases = (epochs, decay_epochs(config.decay, epochs))
        validations = sum(math.ceil(phase / config.validate_every) for phase in phases)
        return sum(phases) * epoch_seconds + validations * trial.validation_seconds

    epochs = 1
    while seconds(epochs + 1) <= PLANNED * minutes * 60:
        epochs += 1
    result: dict[str, float] = {
        "minutes": minutes,
        "rows_per_second": round(trial.rows_per_second, 1),
        "epoch_seconds": round(epoch_seconds, 2),
        "validation_seconds": round(trial.validation_seconds, 2),
        "epochs": epochs,
        "seconds": round(seconds(epochs), 1),
    }
    log.info("plan: %s", result)
    file.write_text(json.dumps(result) + "\n")
    return result


def _trial(
    work: Path,
    sequences: Sequences,
    data: published.Published,
    config: train.Settings,
    execution: train.Execution,
) -> Trial:
    """Measure one epoch and one validation on a random sample of users."""
    users = min(TRIAL_USERS, len(sequences))
    drawn = np.sort(np.random.default_rng(0).choice(len(sequences), users, replace=False))
    validated = config.validation_users or len(sequences)
    short = replace(
        config, epochs=1, decay=0.0, validate_every=1, validation_users=min(users, validated)
    )
    with tempfile.TemporaryDirectory(dir=work) as folder:
        sample = published.subset(data.sequences, Path(folder) / "sequences", drawn)
        inputs = train.Inputs(sequences=sample, semantic_ids=data.semantic_ids)
        started = time.monotonic()
        training = shared.run_stage(train.STAGE, short, inputs, Path(folder) / "out", execution)
        seconds = time.monotonic() - started
        rows = _rows(read_sequences(sample, data.items.rows), config)
    rest = max(seconds - rows / training.metrics["rows_per_second"], 0.0)
    return Trial(training.metrics["rows_per_second"], rest * validated / short.validation_users)


def _rows(sequences: Sequences, config: train.Settings) -> int:
    """Return the number of source sequences per epoch."""
    sources = {task.split("_")[1] for task in config.tasks if task.startswith("seq_")}
    first_R, _ = training_rows(sequences, config.max_history, config.augment)
    return len(first_R) * len(sources)
