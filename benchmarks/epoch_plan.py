"""How many epochs fit into a time: measured on a sample of users before the training.

The decay is part of a training, so a training that is simply cut off has not been trained to its
end. Here the epochs are chosen beforehand, so that those at the constant rate, their validations
and the decay, which comes on top, take the time given.
"""

import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import published
from components.train import spec as train
from components.train.learning_rate import decay_epochs
from components.train.rows import training_rows
from macrec.core.artifact import FolderOutput
from macrec.core.progress import log
from macrec.core.stage import Job
from macrec.data.sequences import Sequences, read_sequences

TRIAL_USERS = 1000
PLANNED = 0.95  # share of the time: a trial is short


class Trial(NamedTuple):
    """Speed of the training, and seconds of a validation of all that it is to validate."""

    rows_per_second: float
    validation_seconds: float


def plan(
    work: Path,
    minutes: float,
    made: published.Published,
    config: train.Settings,
    execution: train.Execution,
) -> dict[str, float]:
    """Epochs that fit into the minutes, at least one; read back if they were planned before."""
    kept = work / "plan.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    if before.get("minutes") == minutes:
        return before
    sequences = read_sequences(made.sequences, made.items.rows)
    trial = _trial(work, sequences, made, config, execution)
    epoch_seconds = _rows(sequences, config) / trial.rows_per_second

    def seconds(epochs: int) -> float:
        phases = (epochs, decay_epochs(config.decay, epochs))
        validations = sum(math.ceil(phase / config.validate_every) for phase in phases)
        return sum(phases) * epoch_seconds + validations * trial.validation_seconds

    epochs = 1
    while seconds(epochs + 1) <= PLANNED * minutes * 60:
        epochs += 1
    found: dict[str, float] = {
        "minutes": minutes,
        "rows_per_second": round(trial.rows_per_second, 1),
        "epoch_seconds": round(epoch_seconds, 2),
        "validation_seconds": round(trial.validation_seconds, 2),
        "epochs": epochs,
        "seconds": round(seconds(epochs), 1),
    }
    log.info("plan: %s", found)
    kept.write_text(json.dumps(found) + "\n")
    return found


def _trial(
    work: Path,
    sequences: Sequences,
    made: published.Published,
    config: train.Settings,
    execution: train.Execution,
) -> Trial:
    """One epoch and one validation of a random sample of users."""
    users = min(TRIAL_USERS, len(sequences))
    drawn = np.sort(np.random.default_rng(0).choice(len(sequences), users, replace=False))
    wanted = config.validation_users or len(sequences)
    short = replace(
        config, epochs=1, decay=0.0, validate_every=1, validation_users=min(users, wanted)
    )
    with tempfile.TemporaryDirectory(dir=work) as folder:
        sample = published.subset(made.sequences, Path(folder) / "sequences", drawn)
        output = FolderOutput(Path(folder) / "recommender")
        output.prepare()
        started = time.monotonic()
        figures = train.STAGE.run(
            Job(
                settings=short,
                inputs=train.Inputs(sequences=sample, semantic_ids=made.semantic_ids),
                outputs=train.Outputs(recommender=output),
                execution=execution,
            )
        )
        seconds = time.monotonic() - started
        rows = _rows(read_sequences(sample, made.items.rows), config)
    rest = max(seconds - rows / figures["rows_per_second"], 0.0)
    return Trial(figures["rows_per_second"], rest * wanted / short.validation_users)


def _rows(sequences: Sequences, config: train.Settings) -> int:
    """Source sequences of an epoch."""
    sources = {task.split("_")[1] for task in config.tasks if task.startswith("seq_")}
    first_R, _ = training_rows(sequences, config.max_history, config.augment)
    return len(first_R) * len(sources)
