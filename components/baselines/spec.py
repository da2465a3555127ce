"""Settings, inputs and outputs of the stage baselines."""

from dataclasses import dataclass, fields, replace

from components.baselines.entries import ENTRIES, ModelName
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which model is trained, for how long, and how it ranks."""

    model: ModelName = "sasrec"
    """Model to train."""
    settings: tuple[str, ...] = ()
    """Settings of the model, each as NAME=VALUE. The others keep their defaults."""
    max_history: int = 20
    """Number of most recent items of a history that a model reads, as in train."""
    seen_items: SeenItems = "auto"
    """Whether a list may contain items of the user's own history: keep, drop or auto, as in
    evaluate."""
    epochs: int = 200
    """Maximum number of epochs at the constant learning rate. The decay comes on top."""
    patience: int = 10
    """Number of consecutive validations without a better NDCG@10 that ends the constant learning
    rate."""
    decay: float = 0.5
    """Length of the final linear decay of the learning rate to zero, as in train. It is a fraction
    of the number of epochs up to the best weights; 0 disables the decay."""
    validate_every: int = 1
    """Number of epochs between validations. Each validation covers all validation users."""
    top_k: int = 20
    """Length of the lists. Metrics with a larger cutoff are omitted."""
    seed: int = 0
    """Random seed of the weights, the batches, the dropout and the masking."""

    def __post_init__(self) -> None:
        counts = ("max_history", "epochs", "patience", "validate_every")
        problems = [f"{name} is below 1" for name in counts if getattr(self, name) < 1]
        problems += [f"{name} is negative" for name in ("decay", "seed") if getattr(self, name) < 0]
        if self.top_k < 10:
            problems.append("top_k is below 10, and the metrics are those at 10")
        check(not problems, f"baselines: {'; '.join(problems)}.")


def unused_imports(config: Settings) -> set[tuple[str, str]]:
    """Return the imports of the registry that this configuration does not use.

    They are left out of the code version (`macrec.core.fingerprint`), so a change of one model does
    not invalidate the results of the others.
    """
    others = (name for name in ENTRIES if name != config.model)
    return {("components.baselines.registry", f"components.baselines.{name}") for name in others}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Device, batch size and threads. They do not change the method."""

    device: str = "auto"
    """Device to run on: cpu, cuda or auto. auto selects cuda if it is available."""
    batch_size: int = 512
    """Number of users that are ranked together."""
    threads: int = 0
    """Number of CPU threads; 0 keeps the default of torch."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, f"batch_size={self.batch_size}: must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Artifacts that the stage reads. Inputs that the model does not read are optional."""

    sequences: Artifact
    """Items of each user in time order."""
    items: Artifact
    """The catalogue. Only its number of rows is read."""
    text_embeddings: Artifact | None = None
    """Text vectors, for models that read them."""
    image_embeddings: Artifact | None = None
    """Image vectors, for models that read them."""
    semantic_ids: Artifact | None = None
    """Semantic IDs of the items, for models that read them."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Artifacts that the stage writes."""

    predictions: DatasetOutput
    """Ranked list of each test user. The column `system` contains the name of the model."""
    fitted: FolderOutput
    """The trained model: model.safetensors, config.json (its settings) and history.json (its
    learning curve)."""


def used_inputs(config: Settings, inputs: Inputs) -> Inputs:
    """Return the inputs without those that the model does not read."""
    left_out = {f.name for f in fields(inputs)} - {"sequences", "items"}
    return replace(inputs, **dict.fromkeys(left_out - set(ENTRIES[config.model].reads)))


STAGE = Stage(
    name="baselines",
    summary="Train one of the systems that MACRec is compared with, and rank for the test users.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    used_inputs=used_inputs,
    unused_imports=unused_imports,
)
