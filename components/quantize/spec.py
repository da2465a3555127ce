"""Declares the settings, inputs and outputs of the stage quantize."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from macrec.compute.device import Device
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, Source
from macrec.core.errors import check
from macrec.core.settings import COMMA_SEPARATED, AutoInt, Seed, Share, settings_class
from macrec.core.stage import Pool, Stage

MAX_CODEBOOK = 2**15
"""Codes are stored as 16-bit integers."""


@settings_class
class Settings:
    """Settings of the quantizer and of its training."""

    mode: Literal["retrain", "frozen"] = "retrain"
    """"retrain" trains a new quantizer on this catalogue. "frozen" reuses the quantizer of an
    earlier run (previous_quantizer, previous_latents, previous_semantic_ids): unchanged items keep
    their IDs and new items get the nearest free codes. The other quantizer settings are then
    ignored."""
    tokenizer: Literal["rqvae", "rqkmeans", "fsq"] = "rqvae"
    """"rqvae" trains an encoder and quantizes its latents level by level. "rqkmeans" runs exact
    residual k-means on the vectors themselves, without training. "fsq" trains an encoder and rounds
    its latents to a fixed grid."""
    modalities: Literal["both", "text", "image"] = "both"
    """Modalities that get codes. With "both", a modality in which no item has a vector is left
    out."""
    history_weight: PositiveFloat = 1.0
    """Length of an item's history vector relative to its text or image vector, which has length 1
    on average. Unused if embed_histories.dim is 0. On the data set Scientific, 2 was no better than
    1."""
    codebook_size: Annotated[AutoInt, Field(le=MAX_CODEBOOK)] = 0
    """Codewords per level (the paper: 256), at most the number of items with a vector in each
    modality. "auto" or 0 chooses the power of two nearest to the square root of this number, at
    least 8 unless there are fewer items."""
    levels: AutoInt = 4
    """Codes per item and modality. "auto" or 0 chooses the fewest levels, at least 3, that offer 16
    codes per item."""
    shared_levels: NonNegativeInt = 0
    """Number of first levels whose codes an item's text and image share. 0 means none; other values
    need modalities=both."""
    fsq_levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], COMMA_SEPARATED] = ()
    """Values per component of the grid; only for tokenizer=fsq, which requires it. Their product
    replaces codebook_size and their number replaces latent_dim."""
    latent_dim: PositiveInt = 32
    """Components of a latent and of a codeword. With tokenizer=rqkmeans latents have the size of
    the vectors instead."""
    projection: NonNegativeInt = 0
    """Size of a linear map before the encoder (the paper: 768). 0 means none."""
    hidden: Annotated[tuple[PositiveInt, ...], COMMA_SEPARATED] = (256, 128)
    """Sizes of the encoder's hidden layers; the decoder has them in reverse order. The paper's
    2048,1024,512,256,128,64 takes 30 times the arithmetic."""
    epochs: PositiveInt = 200
    """Passes over the items. Unused with tokenizer=rqkmeans."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Maximum number of items per step, at least 2. Positives and negatives come from the same
    batch."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW."""
    squared_error: Literal["mean", "sum"] = "mean"
    """Reduction of squared errors over components. "sum" is the paper's squared norm; it makes the
    contrastive and alignment weights count hundreds of times less than "mean" does."""
    rq_weight: NonNegativeFloat = 1.0
    """Weight of the rq loss, which is summed over the levels. Use 1 / levels for the mean over
    levels."""
    commitment: NonNegativeFloat = 0.25
    """Weight of the commitment loss within the rq loss (alpha in the paper)."""
    gradient_estimator: Literal["straight_through", "rotation"] = "straight_through"
    """How the gradient of the reconstruction passes the quantization. "straight_through" copies it;
    "rotation" rotates and scales it as the codeword sum relates to the latent (arXiv
    2410.06424)."""
    contrastive_weights: Annotated[tuple[NonNegativeFloat, ...], COMMA_SEPARATED] = (0.0003, 0.0003)
    """Weight of the contrastive loss per level. A tuple shorter than `levels` applies to the LAST
    levels; the levels before them have weight 0. The paper's 0.1 more than doubled collisions
    here."""
    contrastive_positives: Literal["all", "one", "self"] = "all"
    """Positives of an anchor: "all" items of the batch that share its label in the other modality,
    or "one" of them. "self" uses the anchor itself, as an implementation does that finds no
    positive."""
    contrastive_side: Literal["both", "text", "image"] = "both"
    """Modality whose residuals the contrastive loss acts on. With "text" it trains only the text
    encoder, on the image labels."""
    residual_gradient: Literal["live", "cancelled"] = "live"
    """"live" lets every level's losses train the encoder. "cancelled" stops their gradient past
    level 0, as a straight-through subtraction of the codeword does; use it only to show the
    difference."""
    align_weight: NonNegativeFloat = 0.1
    """Weight of the loss that aligns the codeword sums of an item's text and image. 0 turns it
    off."""
    align_gradient: Literal["codebooks", "encoder", "both"] = "both"
    """Target of the alignment gradient. "codebooks" uses the raw codeword sum, as in the paper;
    encoders then follow by commitment alone. "encoder" is straight-through. "both" reaches both;
    with it, more neighbours in histories shared first codes."""
    align_levels: NonNegativeInt = 0
    """Number of first levels whose codewords are summed for the alignment. 0 means all."""
    align_head: NonNegativeInt = 0
    """Size of a linear map from the codeword sums to the alignment loss, used only in training. 0
    means none."""
    temperature: PositiveFloat = 0.1
    """Temperature of the contrastive loss and of the alignment loss."""
    codebook_init: Literal["kmeans", "normal"] = "kmeans"
    """Codebooks before the first step. "kmeans" clusters all items, level by level on true
    residuals; "normal" draws noise."""
    codebook_update: Literal["refit", "ema", "gradient"] = "refit"
    """How codebooks follow the encoder. "refit" runs k-means on all latents (a sample above
    131,072) every refit_every epochs and at the end, with the rq loss in between. "ema" takes
    moving means of the residuals; "gradient" uses the rq loss alone."""
    refit_every: PositiveInt = 10
    """Epochs between two k-means refits (codebook_update=refit), or between two re-seedings of dead
    codewords."""
    ema_decay: Share = 0.99
    """Share of the old mean that each step keeps (codebook_update=ema). Lower values follow the
    encoder faster; 0.9 gave better codes than 0.99 on the Scientific data set."""
    reseed_dead: bool = True
    """Move each codeword that no item uses to the residual that is farthest from its own codeword.
    Applies to codebook_update=ema and gradient."""
    sinkhorn_epsilons: Annotated[tuple[NonNegativeFloat, ...], COMMA_SEPARATED] = ()
    """Balance the codes of training batches by optimal transport, one epsilon per level (MQL4GRec:
    0.003). 0, or an empty tuple, takes the nearest codeword. A tuple shorter than `levels` applies
    to the LAST levels."""
    sinkhorn_iterations: PositiveInt = 50
    """Iterations of the optimal transport."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the networks' matrix products in training. Distances, codebooks, losses and the
    final codes are always computed in float32."""
    min_perplexity_share: Share = 0.02
    """Minimum perplexity of a level as a share of codebook_size. A lower perplexity means a
    collapsed codebook, and the run fails. 0 turns the check off."""
    seed: Seed = 0
    """Seed of the weights, of k-means and of the batch order."""

    def __post_init__(self) -> None:
        bad = list(self._contradictions())
        check(not bad, f"{'; '.join(bad)}.")

    def _contradictions(self) -> Iterator[str]:
        if self.codebook_size == 1:
            yield "codebook_size=1: should be at least 2, or auto"
        if (size := math.prod(self.fsq_levels)) > MAX_CODEBOOK:
            yield f"fsq_levels have the product {size:,}, above {MAX_CODEBOOK:,} codewords"
        if self.levels:  # 0 is resolved once the number of items is known
            for name in ("contrastive_weights", "sinkhorn_epsilons"):
                if len(getattr(self, name)) > self.levels:
                    yield f"{name} has more numbers than levels={self.levels}"
            for name in ("shared_levels", "align_levels"):
                if getattr(self, name) > self.levels:
                    yield f"{name}={getattr(self, name)} is above levels={self.levels}"
        if (self.tokenizer == "fsq") != bool(self.fsq_levels):
            yield "fsq_levels and tokenizer=fsq require each other"
        fixed = self.tokenizer == "fsq" or self.codebook_update == "ema"
        if fixed and self.align_weight and self.align_gradient == "codebooks":
            yield "align_gradient=codebooks needs codebooks that follow a gradient"
        if self.shared_levels and self.modalities != "both":
            yield "shared_levels needs modalities=both"

    def per_level(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        """Return one number per level from a tuple that may be short; earlier levels get 0."""
        return (0.0,) * (self.levels - len(numbers)) + tuple(numbers)


@settings_class
class Execution:
    """Settings that affect only the speed.

    PyTorch splits sums into one part per CPU thread. Results repeat bit for bit only with the same
    number of threads (OMP_NUM_THREADS).
    """

    device: Device = "auto"
    """Device of the training: auto (a GPU if available, else the CPU), cpu, cuda or cuda:N."""
    resident_gib: NonNegativeFloat = 16.0
    """Vectors up to this size in GiB are kept on the GPU as a whole. Larger ones are copied to it
    batch by batch."""
    memory_gib: NonNegativeFloat = 1.0
    """Vectors of a modality up to this size in GiB are kept in memory. Larger ones are copied to a
    scratch file below TMPDIR and read batch by batch."""
    checkpoint_seconds: NonNegativeFloat = 300.0
    """Seconds between two checkpoints, from which an interrupted run resumes. They are kept in the
    artifact store; without a store there are none."""
    compile: bool = False
    """Compile the networks with torch.compile. This takes a minute or two and needs a C++
    compiler."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The artifacts that the stage reads."""

    text_embeddings: Artifact
    """Text vectors of the items."""
    image_embeddings: Artifact
    """Image vectors of the items."""
    history_embeddings: Artifact
    """History vectors of the items, appended to the text and image vectors. If all are null,
    histories have no part in the codes."""
    pseudo_labels: Artifact
    """Text and image clusters of the items. Items in one image cluster are positives for text, and
    vice versa."""
    previous_quantizer: Source | None = None
    """Quantizer of the earlier run; only for mode=frozen."""
    previous_latents: Source | None = None
    """Latents of the earlier run; only for mode=frozen."""
    previous_semantic_ids: Source | None = None
    """Semantic IDs of the earlier run; only for mode=frozen."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    latents: DatasetOutput
    """Latents and codes of every item, before collisions are resolved; null where an item has no
    vector."""
    quantizer: FolderOutput
    """Encoders, decoders and codebooks. history.json contains the losses of every epoch,
    mean.safetensors the means that the embedding stages subtracted. histories.parquet contains the
    items' history vectors, histories.safetensors the regression that predicts those of other
    items."""


def used_inputs(config: Settings, inputs: Inputs) -> Inputs:
    """Return the inputs without the earlier run unless the quantizer is frozen."""
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
    everyday=(
        "mode",
        "modalities",
        "tokenizer",
        "codebook_size",
        "levels",
        "epochs",
        "batch_size",
        "learning_rate",
    ),
    distributed=True,
    resumable=True,
    used_inputs=used_inputs,
)
