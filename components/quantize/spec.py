"""What the stage quantize is: its settings, inputs and outputs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage

MAX_CODEBOOK = 2**15


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the quantizer is and how it is trained."""

    mode: Literal["retrain", "frozen"] = "retrain"
    """"retrain": a quantizer of its own for this catalogue. "frozen": that of an earlier run
    (previous_quantizer and its like); items that were there keep their IDs, new ones get the
    nearest free codes, and the other settings of the quantizer are not used."""
    tokenizer: Literal["rqvae", "rqkmeans", "fsq"] = "rqvae"
    """"rqvae": the residual quantizer of a trained encoder. "rqkmeans": residual k-means on the
    vectors themselves, exact, without training. "fsq": a trained encoder on a fixed grid."""
    modalities: Literal["both", "text", "image"] = "both"
    """Which vectors get codes. With "both", a modality that no item has is left out."""
    history_weight: float = 1.0
    """Length of an item's history vector beside its text or image vector, which has length 1 on
    average; see history_dim."""
    codebook_size: int = 256
    """Codewords per level; at most the items that have a picture. 0 chooses by the items."""
    levels: int = 4
    """Codes per item and modality. 0 chooses by the items and the codebook size."""
    shared_levels: int = 0
    """Levels, from the first, whose codes text and image of an item have in common."""
    fsq_levels: tuple[int, ...] = ()
    """fsq only: values per component of the grid. Their product stands for codebook_size, their
    number for latent_dim."""
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
    rq_weight: float = 1.0
    """Weight of the rq loss, which is summed over the levels; 1 / levels makes it their mean."""
    commitment: float = 0.25
    """Weight of the commitment loss in the rq loss (alpha)."""
    gradient_estimator: Literal["straight_through", "rotation"] = "straight_through"
    """How the reconstruction's gradient passes the codes: copied, or turned and scaled as the
    codeword sum is against the latent (rotation trick, arXiv 2410.06424)."""
    contrastive_weights: tuple[float, ...] = (0.0003, 0.0003)
    """Weight of the contrastive loss per level. A tuple shorter than the levels belongs to the
    LAST levels, the ones before have 0. The paper's 0.1 more than doubled collisions here."""
    contrastive_positives: Literal["all", "one", "self"] = "all"
    """Positives of an anchor: all items of the batch with its label in the other modality, one of
    them, or the anchor itself (what an implementation computes that finds none)."""
    contrastive_side: Literal["both", "text", "image"] = "both"
    """Whose residuals the contrastive loss acts on; "text" learns from image labels alone."""
    residual_gradient: Literal["live", "cancelled"] = "live"
    """"cancelled": no loss trains an encoder past level 0, as where the codeword is subtracted
    straight-through; there to show the difference."""
    align_weight: float = 0.1
    """Weight of the alignment of an item's text and image codeword sums."""
    align_gradient: Literal["codebooks", "encoder", "both"] = "both"
    """Where the alignment's gradient goes. "codebooks": through the raw codeword sum, as the
    paper's text has it; the encoder follows its codewords by commitment alone. "encoder":
    straight-through. "both": neighbours in a history were seen to share more first codes."""
    align_levels: int = 0
    """Levels, from the first, whose codewords are summed for the alignment; 0 for all."""
    align_head: int = 0
    """Size of a linear map between the codeword sums and the alignment, used in training only; 0
    for none."""
    temperature: float = 0.1
    """Temperature of the contrastive and of the alignment loss."""
    codebook_init: Literal["kmeans", "normal"] = "kmeans"
    """Codebooks before the first step: k-means on all items, level by level on true residuals, or
    normal noise."""
    codebook_update: Literal["refit", "ema", "gradient"] = "refit"
    """"refit": k-means on the latents of all items (above 131,072 of a sample) every refit_every
    epochs and at the end, the rq loss in between. "ema": moving means of the residuals.
    "gradient": the rq loss alone."""
    refit_every: int = 10
    """Epochs between two k-means refits, or between two re-seedings of dead codewords."""
    ema_decay: float = 0.99
    """ema only: share of the old mean that a step keeps."""
    reseed_dead: bool = True
    """ema and gradient: a codeword that no item uses moves to the residual farthest from its
    own."""
    sinkhorn_epsilons: tuple[float, ...] = ()
    """Balanced codes while training (optimal transport), per level; 0 or none is the nearest
    codeword. A short tuple belongs to the LAST levels. MQL4GRec: 0.003."""
    sinkhorn_iterations: int = 50
    """Iterations of the optimal transport."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' products in training. Distances, codebooks and losses, and the codes that
    are written, are always computed in float32."""
    min_perplexity_share: float = 0.02
    """Lowest perplexity of a level / codebook_size that passes for a working codebook; 0 = off."""
    seed: int = 0
    """Seed of the weights, of k-means and of the batches."""

    def __post_init__(self) -> None:
        bad = [*self._outside_range(), *self._contradictions()]
        check(not bad, f"quantize: {'; '.join(bad)}.")

    def _outside_range(self) -> Iterator[str]:
        for name in ("latent_dim", "epochs", "refit_every", "sinkhorn_iterations"):
            if getattr(self, name) < 1:
                yield f"{name} is below 1"
        for name in ("learning_rate", "temperature", "history_weight"):
            if not getattr(self, name) > 0:
                yield f"{name} is not above 0"
        for name in (
            "codebook_size", "levels", "shared_levels", "projection", "weight_decay", "rq_weight",
            "commitment", "align_weight", "align_levels", "align_head", "seed",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                yield f"{name} is negative"
        for name in ("contrastive_weights", "sinkhorn_epsilons"):
            if not min(getattr(self, name), default=0) >= 0:
                yield f"{name} has a negative number"
        if min(self.hidden, default=1) < 1:
            yield "hidden has a layer below 1"
        if min(self.fsq_levels, default=2) < 2:
            yield "fsq_levels has a component of fewer than 2 values"
        if max(self.codebook_size, math.prod(self.fsq_levels)) > MAX_CODEBOOK:
            yield f"codebook_size is above {MAX_CODEBOOK}, the codes that 16 bits hold"
        if self.codebook_size == 1:
            yield "codebook_size is 1, which tells no item from another"
        if self.batch_size < 2:
            yield "batch_size is below 2, which leaves no negatives"
        for name in ("min_perplexity_share", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"{name} is outside 0..1"

    def _contradictions(self) -> Iterator[str]:
        if self.levels:  # 0: known only when the items are
            for name in ("contrastive_weights", "sinkhorn_epsilons"):
                if len(getattr(self, name)) > self.levels:
                    yield f"{name} has more numbers than there are levels, {self.levels}"
            for name in ("shared_levels", "align_levels"):
                if getattr(self, name) > self.levels:
                    yield f"{name} is above levels, {self.levels}"
        if (self.tokenizer == "fsq") != bool(self.fsq_levels):
            yield "fsq_levels and tokenizer=fsq belong together"
        fixed = self.tokenizer == "fsq" or self.codebook_update == "ema"
        if fixed and self.align_weight and self.align_gradient == "codebooks":
            yield "align_gradient=codebooks needs codebooks that follow a gradient"
        if self.shared_levels and self.modalities != "both":
            yield "shared_levels needs modalities=both"

    def per_level(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        """One number per level from a tuple that may be short; the levels before have 0."""
        return (0.0,) * (self.levels - len(numbers)) + tuple(numbers)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on.

    Torch takes sums in parts, one a thread of the CPU: the same bytes come again only with as many
    threads (OMP_NUM_THREADS).
    """

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    resident_gib: float = 16.0
    """GPU: vectors up to this size are kept on it whole; larger ones go there by batch."""
    memory_gib: float = 1.0
    """Vectors of a modality up to this size are kept in memory; larger ones are copied to a scratch
    file below TMPDIR and read by batch."""
    checkpoint_seconds: float = 300.0
    """Time between two checkpoints; they lie in the store, without which there are none."""
    compile: bool = False
    """Compiles the networks (torch.compile); takes a minute or two and a C++ compiler."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is quantized."""

    text_embeddings: Artifact
    """Text vectors of the items."""
    image_embeddings: Artifact
    """Image vectors of the items."""
    history_embeddings: Artifact
    """What histories say of the items, in addition to both; all null if they shall not."""
    pseudo_labels: Artifact
    """Clusters of both: an item's image cluster says which texts are alike, and vice versa."""
    previous_quantizer: Source | None = None
    """mode=frozen: the quantizer of the earlier run."""
    previous_latents: Source | None = None
    """mode=frozen: the latents of the earlier run."""
    previous_semantic_ids: Source | None = None
    """mode=frozen: the semantic IDs of the earlier run."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    latents: DatasetOutput
    """Latents and codes of every item, collisions included; null without a vector."""
    quantizer: FolderOutput
    """Encoders, decoders and codebooks; history.json has the losses of every epoch,
    mean.safetensors what the embedding stages had subtracted, histories.parquet the history vectors
    of the items, histories.safetensors how those of others are foretold."""


def used_inputs(config: Settings, inputs: Inputs) -> Inputs:
    """An earlier run counts only for a frozen quantizer."""
    if config.mode == "frozen":
        return inputs
    return replace(
        inputs, previous_quantizer=None, previous_latents=None, previous_semantic_ids=None
    )


STAGE = Stage(
    name="quantize",
    summary="Train the cross-modal quantizer and compute latents and codes of every item.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    distributed=True,
    resumable=True,
    used_inputs=used_inputs,
)
