"""Stage quantize: trains the cross-modal quantizer and computes latents and codes of every item.

The loss is that of MACRec's section on cross-modal quantization: L_recon + L_rq + L_con + L_align.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from components.quantize import frozen_quantizer, sizes
from components.quantize.data import Catalogue, Modality, OnDisk, log_duration
from components.quantize.evaluation import evaluate
from components.quantize.quantizer_training import TrainedQuantizer, train
from components.quantize.spec import Execution, Inputs, Outputs, Settings
from macrec.compute.device import choose_device
from macrec.core.artifact import Artifact, DatasetWriter
from macrec.core.errors import check
from macrec.core.progress import Progress, log
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.centring import read_mean, write_means
from macrec.data.columns import codes_column, valid_rows, vector_column
from macrec.data.vectors import ItemVectors, read_vectors
from macrec.tokenizer.item_vectors_from_histories import Histories, fit_histories
from macrec.tokenizer.quantizer import Encoding

MODALITIES = ("text", "image")


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Train on all items and encode them with the model of the last epoch.

    With mode=frozen the items are encoded with an earlier model instead. Of several processes, only
    the first encodes, writes and returns metrics.

    Raises:
        UserError: artifacts of different catalogues, no vectors at all, fewer vectors than
            codewords, a loss that is not finite, or a codebook below min_perplexity_share.
    """
    config = job.settings
    given = {name: value for name, value in vars(job.inputs).items() if isinstance(value, Artifact)}
    rows = {name: artifact.rows for name, artifact in given.items()}
    check(len(set(rows.values())) == 1, f"quantize: {rows} rows. Give the artifacts of one run.")
    together = job.processes
    device = together.device(choose_device(job.execution.device))
    if config.mode == "frozen":
        return frozen_quantizer.run(job.inputs, job.outputs, device) if together.is_first else {}
    with log_duration("reading vectors"):
        catalogue, histories = _read(job.inputs, config, job.execution.memory_gib)
    chosen = sizes.choose(config, {n: int(m.present_N.sum()) for n, m in catalogue.items()})
    log.info(
        "quantize: %d codewords, %d levels (%s)", chosen.codebook_size, chosen.levels, chosen.reason
    )
    config = sizes.settle(config, chosen)
    size = sum(data.size for data in catalogue.values())
    resident = device.type != "cpu" and size <= job.execution.resident_gib * 2**30
    near = {n: data.to(device) for n, data in catalogue.items()} if resident else catalogue
    with Progress("train quantizer", config.epochs, "epochs") as progress:
        trained = train(
            near,
            config,
            device,
            progress.advance,
            checkpoints=job.checkpoints(job.execution.checkpoint_seconds),
            processes=together,
            compiled=job.execution.compile,
        )
    if not together.is_first:
        return {}
    means = {name: read_mean(getattr(job.inputs, f"{name}_embeddings")) for name in catalogue}
    write_means(job.outputs.quantizer.path, means)
    if histories:
        histories.save(job.outputs.quantizer.path)
    with log_duration("encoding and measuring"):
        return _write(trained, catalogue, config, job.outputs, chosen.reason)


def _read(
    inputs: Inputs, config: Settings, memory_gib: float
) -> tuple[Catalogue, Histories | None]:
    """Return the modalities that get codes, and the histories if there are any.

    A modality in which no item has a vector is left out.
    """
    wanted = MODALITIES if config.modalities == "both" else (config.modalities,)
    vectors: dict[str, ItemVectors] = {}
    for name in wanted:
        found = read_vectors(getattr(inputs, f"{name}_embeddings"), memory_gib=memory_gib)
        if found.present_N.any():
            vectors[name] = found
        else:
            log.info("quantize: %s codes are left out, no item has a vector", name)
    check(
        bool(vectors),
        f"quantize: none of {inputs.pseudo_labels.rows:,} items has a {' or '.join(wanted)} vector."
        " Give the embedding stage a model or ready vectors, or set quantize.modalities.",
    )
    histories = None
    if valid_rows(inputs.history_embeddings).any():
        histories = fit_histories(vectors, inputs.history_embeddings, config.history_weight)
        item_ids = inputs.history_embeddings.table(["item_id"]).column(0).combine_chunks()
        vectors = histories.join(vectors, item_ids)
    catalogue: dict[str, Modality] = {}
    for name, (matrix_NE, present_N) in vectors.items():
        labels = inputs.pseudo_labels.table([f"{name}_label"]).column(0).fill_null(-1)
        in_memory = isinstance(matrix_NE, np.ndarray)
        catalogue[name] = Modality(
            torch.from_numpy(matrix_NE) if in_memory else OnDisk(matrix_NE),
            torch.from_numpy(present_N),
            torch.from_numpy(labels.to_numpy().astype(np.int64)),
        )
    return catalogue, histories


def _write(
    trained: TrainedQuantizer, catalogue: Catalogue, config: Settings, outputs: Outputs, reason: str
) -> Metrics:
    widths = {n: trained.model.modality(n).latent_dim if n in catalogue else 1 for n in MODALITIES}
    kind = schema.latents(widths["text"], widths["image"])
    with outputs.latents.dataset(kind) as out:
        chunks = _Chunks(out, kind, catalogue)
        evaluation = evaluate(trained, catalogue, config, chunks.write)
    sizes = {"codebook_size": float(config.codebook_size), "levels": float(config.levels)}
    figures = evaluation.figures | sizes
    trained.model.save(outputs.quantizer.path)
    history = {"epochs": trained.history, "final": figures, "sizes": reason}
    text = json.dumps(history, indent=1) + "\n"
    (outputs.quantizer.path / "history.json").write_text(text, encoding="utf-8")
    return figures


class _Chunks:
    """Writes latents and codes chunk by chunk."""

    def __init__(self, out: DatasetWriter, kind: pa.Schema, catalogue: Catalogue) -> None:
        self.out, self.kind, self.catalogue, self.start = out, kind, catalogue, 0

    def write(self, chunk: Mapping[str, Encoding]) -> None:
        """Write the next items."""
        count = len(next(iter(chunk.values())).codes_NL)
        stop = self.start + count
        columns: dict[str, pa.Array] = {
            "item_index": pa.array(np.arange(self.start, stop, dtype=np.int32))
        }
        for name in MODALITIES:
            latents_BD = np.zeros((count, self.kind.field(f"{name}_latent").type.list_size))
            codes_BL = np.full((count, 0), -1)
            present_B = np.zeros(count, bool)
            if name in chunk:
                latents_BD = chunk[name].latents_ND.cpu().numpy()
                present_B = self.catalogue[name].present_N[self.start : stop].cpu().numpy()
                codes_BL = np.where(present_B[:, None], chunk[name].codes_NL.cpu().numpy(), -1)
            columns[f"{name}_latent"] = vector_column(latents_BD, present_B)
            columns[f"{name}_codes"] = codes_column(codes_BL)
        self.out.write(pa.table({field.name: columns[field.name] for field in self.kind}))
        self.start = stop
