"""A small catalogue with planted groups, and the quantizer on it, for the tests of the stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from components.quantize import sizes, spec, stage
from components.quantize.data import Catalogue, Modality
from components.quantize.quantizer_trainer import Trainer
from components.quantize.spec import Settings
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.data import schema
from macrec.data.columns import vector_column
from tests.artifacts import dataset
from tests.jobs import job

CPU = torch.device("cpu")
GROUPS = 6
SMALL = Settings(
    codebook_size=8, levels=3, latent_dim=4, hidden=(12,), epochs=3, batch_size=45, refit_every=2
)


def planted(items: int = 90, seed: int = 0) -> dict[str, Modality]:
    """Item i belongs to group i % GROUPS; groups lie far apart in both modalities."""
    rng = np.random.default_rng(seed)
    group_N = np.arange(items) % GROUPS
    label_N = torch.from_numpy(group_N)

    def modality(dim: int) -> Modality:
        centres = rng.normal(size=(GROUPS, dim))[group_N]
        vectors = (centres + 0.1 * rng.normal(size=centres.shape)).astype(np.float32)
        return Modality(torch.from_numpy(vectors), torch.ones(items).bool(), label_N.clone())

    return {"text": modality(10), "image": modality(7)}


def without(catalogue: Catalogue, name: str, *rows: int) -> dict[str, Modality]:
    """The catalogue with rows of a modality missing."""
    data = catalogue[name]
    present_N, label_N = data.present_N.clone(), data.label_N.clone()
    present_N[list(rows)], label_N[list(rows)] = False, -1
    return {**catalogue, name: data._replace(present_N=present_N, label_N=label_N)}


def settled(config: Settings, items: int = 90) -> Settings:
    """The settings with the sizes filled in, as the stage does it."""
    return sizes.settle(config, sizes.choose(config, {"text": items}))


def untrained(catalogue: Catalogue, config: Settings) -> Trainer:
    """The state before the first step: model, heads, codebooks."""
    return Trainer(catalogue, config, CPU)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def history_embeddings(
    path: Path, vector_NH: np.ndarray, met_N: np.ndarray, ids: list[str] | None = None
) -> Artifact:
    """The artifact of embed_histories; items that were not met have no vector."""
    count = len(met_N)
    index = np.arange(count, dtype=np.int32)
    ids = ids or [f"i{row}" for row in index]
    columns = [index, ids, vector_column(vector_NH, met_N > 0), met_N.astype(np.int32)]
    return dataset(path, schema.histories(vector_NH.shape[1]), columns)


def make_inputs(path: Path, catalogue: Catalogue, histories: Artifact | None = None) -> spec.Inputs:
    """The catalogue as artifacts of the stages before; without histories no item was met."""
    count = len(catalogue["text"].present_N)
    index = np.arange(count, dtype=np.int32)
    given: dict[str, Artifact] = {}
    labels: list[pa.Array] = []
    for name, data in catalogue.items():
        present_N = data.present_N.numpy()
        status = np.where(present_N, "ok", "missing").tolist()
        columns = [index, vector_column(data.embedding_NE.numpy(), present_N), status]
        kind = schema.embeddings(data.embedding_NE.shape[1])
        given[f"{name}_embeddings"] = dataset(path / name, kind, columns)
        labels.append(pa.array(data.label_N.numpy().astype(np.int32), mask=~present_N))
    given["pseudo_labels"] = dataset(path / "labels", schema.PSEUDO_LABELS, [index, *labels])
    given["history_embeddings"] = histories or history_embeddings(
        path / "histories", np.zeros((count, 1)), np.zeros(count)
    )
    return spec.Inputs(**given)


class Done(NamedTuple):
    """What a run of the stage leaves."""

    latents: Artifact
    folder: Path
    metrics: Mapping[str, float]


def run(path: Path, inputs: spec.Inputs, config: Settings = SMALL, **execution: Any) -> Done:
    """Runs the stage."""
    outputs = spec.Outputs(
        latents=DatasetOutput(path / "latents"), quantizer=FolderOutput(path / "quantizer")
    )
    for output in vars(outputs).values():
        output.prepare()
    metrics = stage.run(job(config, inputs, outputs, spec.Execution(device="cpu", **execution)))
    for output in vars(outputs).values():
        output.commit({})
    return Done(Artifact.open(outputs.latents.path), outputs.quantizer.path, metrics)
