"""quantize: trains the cross-modal RQ-VAE and gives every item its latents and codes (MACRec,
section on cross-modal quantization: L_recon + L_rq + L_con + L_align)."""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from macrec import schema, stage
from macrec.arrays import codes_column, embedding_matrix, valid_rows, vector_column
from macrec.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.errors import check
from macrec.progress import Progress

if TYPE_CHECKING:
    from components.quantize.training import Catalogue, Trained

MODALITIES = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the quantizer is and how it is trained."""

    codebook_size: int = 256
    """Codewords per level; at most the items that have a picture."""
    levels: int = 4
    """Codes per item and modality."""
    latent_dim: int = 32
    """Components of a latent and of a codeword."""
    projection: int = 0
    """Size of a linear map before the encoder; 0 for none (the paper: 768)."""
    hidden: tuple[int, ...] = (256, 128)
    """Hidden layers of the encoder, reversed in the decoder. The paper's 2048,1024,512,256,128,64
    takes 30 times the arithmetic."""
    epochs: int = 200
    """Passes over the items."""
    batch_size: int = 1024
    """Items per step, at most. Positives and negatives are those of the batch."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    squared_error: Literal["mean", "sum"] = "mean"
    """Over components: their mean, or their sum (|.|^2 as printed), beside which the contrastive
    and alignment weights count hundreds of times less."""
    commitment: float = 0.25
    """Weight of the commitment loss in the rq loss (alpha)."""
    contrastive_weights: tuple[float, ...] = (0.0003, 0.0003)
    """Weight of the contrastive loss per level. A tuple shorter than the levels belongs to the
    LAST levels, the ones before have 0. The paper's 0.1 more than doubled collisions here."""
    align_weight: float = 0.1
    """Weight of the alignment of an item's text and image codeword sums."""
    align_gradient: Literal["codebooks", "encoder", "both"] = "both"
    """Where the alignment's gradient goes. "codebooks": through the raw codeword sum, as the
    paper's text has it; the encoder follows its codewords by commitment alone. "encoder":
    straight-through. "both": neighbours in a history were seen to share more first codes."""
    temperature: float = 0.1
    """Temperature of the contrastive and of the alignment loss."""
    codebook_update: Literal["refit", "gradient"] = "refit"
    """"refit": k-means on the latents of all items every refit_every epochs and at the end, the rq
    loss in between. "gradient": the rq loss after one such start; dead codewords are re-seeded."""
    refit_every: int = 10
    """Epochs between two k-means refits, or between two re-seedings of dead codewords."""
    min_perplexity_share: float = 0.02
    """Lowest perplexity of a level / codebook_size that passes for a working codebook; 0 = off."""
    seed: int = 0
    """Seed of the weights, of k-means and of the batches."""

    def __post_init__(self) -> None:
        counts = ("codebook_size", "levels", "latent_dim", "epochs", "refit_every")
        bad = [f"{name} is below 1" for name in counts if getattr(self, name) < 1]
        positive = ("learning_rate", "temperature")
        bad += [f"{name} is not above 0" for name in positive if not getattr(self, name) > 0]
        zero = ("weight_decay", "commitment", "align_weight", "projection", "seed")
        bad += [f"{name} is negative" for name in zero if not getattr(self, name) >= 0]
        if self.codebook_size > 2**15:
            bad.append(f"codebook_size is above {2**15}, the codes that 16 bits hold")
        if self.batch_size < 2:
            bad.append("batch_size is below 2, which leaves no negatives")
        if min(self.hidden, default=1) < 1:
            bad.append("hidden has a layer below 1")
        if min(self.contrastive_weights, default=0) < 0:
            bad.append("contrastive_weights has a negative weight")
        if len(self.contrastive_weights) > self.levels:
            bad.append(f"contrastive_weights has more weights than there are levels, {self.levels}")
        if not 0 <= self.min_perplexity_share <= 1:
            bad.append("min_perplexity_share is outside 0..1")
        check(not bad, f"quantize: {'; '.join(bad)}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    resident_gib: float = 16.0
    """Embeddings up to this size are kept on the device whole; larger ones go there by batch."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is quantized."""

    text_embeddings: Artifact
    """Text vectors of the items."""
    image_embeddings: Artifact
    """Image vectors of the items."""
    pseudo_labels: Artifact
    """Clusters of both: an item's image cluster says which texts are alike, and vice versa."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    latents: DatasetOutput
    """Latents and codes of every item, collisions included; null without a vector."""
    quantizer: FolderOutput
    """Encoders, decoders and codebooks; history.json has the losses of every epoch."""


def run(config: Config, inputs: Inputs, outputs: Outputs, execution: Execution) -> stage.Metrics:
    """Trains on all items and encodes them with the model of the last epoch.

    Raises:
        UserError: artifacts of different catalogues, fewer vectors than codewords, a loss that is
            not finite, or a codebook below min_perplexity_share.
    """
    from components.quantize.training import train
    from macrec.runtime import choose_device

    rows = {name: artifact.rows for name, artifact in vars(inputs).items()}
    check(len(set(rows.values())) == 1, f"quantize: {rows} rows. Give the artifacts of one run.")
    device = choose_device(execution.device)
    catalogue = _read(inputs)
    size = sum(data.embedding_NE.numel() * 4 for data in catalogue)
    if size <= execution.resident_gib * 2**30:
        catalogue = type(catalogue)(*(data.to(device) for data in catalogue))
    with Progress("train quantizer", config.epochs, "epochs") as progress:
        trained = train(catalogue, config, device, progress.advance)
    return _write(trained, catalogue, config, outputs)


def _read(inputs: Inputs) -> "Catalogue":
    import torch

    from components.quantize.training import Catalogue, Modality

    def modality(name: str) -> Modality:
        artifact: Artifact = getattr(inputs, f"{name}_embeddings")
        labels = inputs.pseudo_labels.table([f"{name}_label"]).column(0).fill_null(-1)
        return Modality(
            torch.from_numpy(embedding_matrix(artifact)),
            torch.from_numpy(valid_rows(artifact)),
            torch.from_numpy(labels.to_numpy().astype(np.int64)),
        )

    return Catalogue(*(modality(name) for name in MODALITIES))


def _write(
    trained: "Trained", catalogue: "Catalogue", config: Config, outputs: Outputs
) -> stage.Metrics:
    from components.quantize.evaluation import evaluate

    columns: dict[str, Any] = {
        "item_index": pa.array(np.arange(len(catalogue.text.present_N), dtype=np.int32))
    }
    metrics: stage.Metrics = {}
    for name, data in zip(MODALITIES, catalogue, strict=True):
        encoded, figures = evaluate(trained, data, name, config)
        present_N = data.present_N.cpu().numpy()
        columns[f"{name}_latent"] = vector_column(encoded.latents_ND.numpy(), present_N)
        codes_NL = np.where(present_N[:, None], encoded.codes_NL.numpy(), -1)
        columns[f"{name}_codes"] = codes_column(codes_NL)
        metrics |= figures
    kind = schema.latents(config.latent_dim)
    with outputs.latents.dataset(kind) as out:
        out.write(pa.table({field.name: columns[field.name] for field in kind}))
    trained.model.save(outputs.quantizer.path)
    history = json.dumps({"epochs": trained.history, "final": metrics}, indent=1)
    (outputs.quantizer.path / "history.json").write_text(history + "\n", encoding="utf-8")
    return metrics


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
