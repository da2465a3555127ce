"""A small catalogue with random codes and the generator on it, for the tests of `train`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from components.train import spec, stage
from components.train.generator_training import TrainedGenerator, prepare, train
from components.train.rows import TASKS, TrainingData, training_data
from macrec.core.artifact import FolderOutput
from macrec.data import schema
from macrec.data.columns import codes_column
from macrec.data.sequences import Sequences
from macrec.generator.model import ModelSize, build_model
from macrec.generator.tokens import Int32Array, Vocabulary
from tests.artifacts import dataset
from tests.jobs import job

CPU = torch.device("cpu")
ITEMS, LEVELS, CODES = 12, 3, 4
VOCABULARY = Vocabulary(LEVELS, CODES)
SIZE = ModelSize(d_model=16, d_ff=32, d_kv=8, layers=2, heads=2, dropout=0.0)
SMALL = spec.Settings(
    learning_rate=1e-3,
    d_model=16,
    d_ff=32,
    d_kv=8,
    layers=1,
    heads=2,
    batch_size=8,
    item_pairs=4,
    epochs=2,
    warmup_steps=2,
    validate_every=1,
    validation_beams=4,
)

Codes = tuple[Int32Array, Int32Array]


def codes(seed: int, items: int = ITEMS, levels: int = LEVELS, size: int = CODES) -> Int32Array:
    """Distinct random codes of every item."""
    drawn = np.random.default_rng(seed).choice(size**levels, items, replace=False)
    return np.stack(np.unravel_index(drawn, (size,) * levels), axis=1).astype(np.int32)


def catalogue_codes(*without_image: int) -> Codes:
    """Text codes and image codes; the given items have no picture."""
    text_NL, image_NL = codes(1), codes(2)
    image_NL[list(without_image)] = -1
    return text_NL, image_NL


def flat(*histories: Sequence[int]) -> Sequences:
    """Histories as the stages hold them."""
    offsets = np.cumsum([0, *map(len, histories)])
    return Sequences(np.array([i for h in histories for i in h], np.int32), offsets)


def random_sequences(users: int = 40, seed: int = 0, longest: int = 15) -> Sequences:
    """Random histories of all lengths below the longest."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, longest, users)
    return flat(*(draw.integers(0, ITEMS, length).tolist() for length in lengths))


def planted_histories(users: int, seed: int = 0) -> list[list[int]]:
    """The next item is always the last one plus 5 (mod 12), one cycle through all items."""
    starts = np.random.default_rng(seed).integers(0, ITEMS, users)
    return [[int(start + 5 * step) % ITEMS for step in range(7)] for start in starts]


def data_of(
    sequences: Sequences, item_codes: Codes, tasks: Sequence[str] = TASKS, **settings: Any
) -> TrainingData:
    """What batches are made of."""
    options = {"max_history": 5, "augment": True, "use_pairs": True} | settings
    return training_data(VOCABULARY, sequences, item_codes, tasks, **options)


def small_model(seed: int = 0, size: ModelSize = SIZE) -> Any:
    """A model with seeded weights."""
    torch.manual_seed(seed)
    return build_model(VOCABULARY, size)


def stage_inputs(folder: Path, histories: list[list[int]], item_codes: Codes) -> spec.Inputs:
    """Histories and codes as artifacts of the stages before."""
    items = len(item_codes[0])
    moved = np.full(items, -1, np.int8)
    semantic_ids = {
        "item_index": np.arange(items, dtype=np.int32),
        "item_id": [f"i{k}" for k in range(items)],
        "text_codes": codes_column(item_codes[0]),
        "image_codes": codes_column(item_codes[1]),
        "text_moved": moved,
        "image_moved": moved,
    }
    sequences = {
        "user_id": [f"u{k}" for k in range(len(histories))],
        "item_index": histories,
        "timestamp": [None] * len(histories),
    }
    return spec.Inputs(
        sequences=dataset(folder / "sequences", schema.SEQUENCES, sequences),
        semantic_ids=dataset(
            folder / "semantic_ids", schema.SEMANTIC_IDS, semantic_ids, codebook_size=CODES
        ),
    )


def run_stage(
    folder: Path, config: spec.Settings, inputs: spec.Inputs
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Runs the stage; its metrics and its files."""
    output = FolderOutput(folder)
    output.prepare()
    execution = spec.Execution(device="cpu", threads=1)
    metrics = stage.run(job(config, inputs, spec.Outputs(recommender=output), execution))
    return metrics, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Run(NamedTuple):
    """A training and the model that it left."""

    model: Any
    trained: TrainedGenerator


def weight_score(model: Any) -> float:
    """A score that depends on every weight and goes up and down: deterministic, without meaning."""
    total = sum(weight.detach().double().abs().sum().item() for weight in model.parameters())
    return total * 7.0 % 1.0


def train_small(config: spec.Settings = SMALL, score: Any = weight_score, **settings: Any) -> Run:
    """Trains from seeded weights on random histories."""
    prepare(config.seed, "cpu", 1)
    model = build_model(VOCABULARY, config.model_size)
    source = config.source
    data = data_of(random_sequences(8), catalogue_codes(3), config.tasks, source=source)
    return Run(model, train(model, data, config, score, CPU, **settings))
