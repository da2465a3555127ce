"""Histories with a planted rule, as artifacts of prepare_data, and the stage baselines on them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.baselines import spec
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.core.executor import execute
from macrec.data import schema
from tests.artifacts import dataset

ITEMS = 41  # a prime, so that every step leads through all items


def last_plus_5(history: list[int]) -> int:
    return (history[-1] + 5) % ITEMS


def two_back_plus_7(history: list[int]) -> int:
    """The last item says nothing of the next one: two chains alternate."""
    return (history[-2] + 7) % ITEMS


def follow(rule: Any, users: int = 160, seed: int = 0) -> list[list[int]]:
    """Histories of 5 to 12 items that begin anywhere and go on by the rule."""
    generator = np.random.default_rng(seed)
    histories = []
    for length in generator.integers(5, 13, users):
        history = generator.integers(0, ITEMS, 2).tolist()
        while len(history) < length:
            history.append(rule(history))
        histories.append(history)
    return histories


def prepared(path: Path, histories: list[list[int]], items: int = ITEMS) -> Path:
    """A folder as prepare_data leaves it."""
    ids = [f"u{k:04d}" for k in range(len(histories))]
    dataset(path / "sequences", schema.SEQUENCES, [ids, histories, [None] * len(ids)])
    names = [f"i{k}" for k in range(items)]
    nothing = [""] * items
    columns = [range(items), names, nothing, nothing, [None] * items, [False] * items]
    dataset(path / "items", schema.ITEMS, [list(column) for column in columns])
    return path


class Done(NamedTuple):
    metrics: dict[str, float]
    predictions: Artifact
    fitted: Artifact


def with_vectors(path: Path, **vectors: list[Any]) -> Path:
    """The folder with vectors of its items beside them; None is an item without one."""
    for name, rows in vectors.items():
        width = next(len(row) for row in rows if row is not None)
        states = ["missing" if row is None else "ok" for row in rows]
        columns = [list(range(len(rows))), rows, states]
        dataset(path / f"{name}_embeddings", schema.embeddings(width), columns)
    return path


def random_vectors(items: int = ITEMS, seed: int = 0) -> dict[str, list[Any]]:
    """Text and image vectors that say nothing of the rules; some items lack one, one lacks both."""
    generator = np.random.default_rng(seed)
    rows = {
        name: generator.normal(size=(items, width)).astype(np.float32).tolist()
        for name, width in (("text", 8), ("image", 6))
    }
    rows["text"][3] = rows["text"][7] = rows["image"][5] = rows["image"][7] = None
    return rows


VECTORS = ("text_embeddings", "image_embeddings")


def inputs(data: Path) -> spec.Inputs:
    """What lies in the folder."""
    names = ("sequences", "items", *(name for name in VECTORS if (data / name).is_dir()))
    return spec.Inputs(**{name: Artifact.open(data / name) for name in names})


def run(data: Path, out: Path, model: str, *settings: str, **config: Any) -> Done:
    """The stage, without a store."""
    outputs = spec.Outputs(
        predictions=DatasetOutput(out / "predictions"), fitted=FolderOutput(out / "fitted")
    )
    asked = spec.Settings(model=model, settings=settings, **config)
    execution = spec.Execution(device="cpu", threads=1, batch_size=64)
    result = execute(spec.STAGE, asked, inputs(data), outputs, execution)
    opened = {name: Artifact.open(o.path) for name, o in vars(outputs).items()}
    return Done(result.metrics, **opened)
