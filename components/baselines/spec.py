"""What the stage baselines is: its settings, inputs and outputs."""

from dataclasses import dataclass, fields, replace

from components.baselines.entries import ENTRIES, ModelName
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which model, and how long it may learn."""

    model: ModelName = "sasrec"
    """The system."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE of the model's own settings; the others have their defaults."""
    max_history: int = 20
    """Items of a history that are read, the last ones; as in train."""
    seen_items: SeenItems = "auto"
    """Whether a list may hold items of the user's own history, as in evaluate."""
    epochs: int = 200
    """Epochs at most."""
    patience: int = 10
    """Validations in a row without a better NDCG@10 that end the constant learning rate."""
    decay: float = 0.5
    """Epochs in which the rate then falls to zero, as a share of those up to the best weights, as
    in train; 0: none."""
    validate_every: int = 1
    """Epochs between validations, which are on every validation user."""
    top_k: int = 20
    """Length of the lists; metrics beyond it are left out."""
    seed: int = 0
    """Seed of the weights, the batches, dropout and what is hidden."""

    def __post_init__(self) -> None:
        counts = ("max_history", "epochs", "patience", "validate_every")
        problems = [f"{name} is below 1" for name in counts if getattr(self, name) < 1]
        problems += [f"{name} is negative" for name in ("decay", "seed") if getattr(self, name) < 0]
        if self.top_k < 10:
            problems.append("top_k is below 10, and the metrics are those at 10")
        check(not problems, f"baselines: {'; '.join(problems)}.")


def unused_imports(config: Settings) -> set[tuple[str, str]]:
    """Imports of the registry that this configuration has no use for: a change of one model leaves
    the results of the others valid (`macrec.core.fingerprint`)."""
    others = (name for name in ENTRIES if name != config.model)
    return {("components.baselines.registry", f"components.baselines.{name}") for name in others}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where it runs."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda when there is one."""
    batch_size: int = 512
    """Users ranked together."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, f"batch_size={self.batch_size}: must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is learned from. What a model does not read may be left out."""

    sequences: Artifact
    """Users' items in time order."""
    items: Artifact
    """The catalogue; its number of rows is all that is read."""
    text_embeddings: Artifact | None = None
    """Text vectors, for models that read them."""
    image_embeddings: Artifact | None = None
    """Image vectors, for models that read them."""
    semantic_ids: Artifact | None = None
    """Codes of the items, for models that read them."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What comes out."""

    predictions: DatasetOutput
    """Every test user's list; the system is the model's name."""
    fitted: FolderOutput
    """The model: model.safetensors, config.json with its settings, history.json, its curve."""


def used_inputs(config: Settings, inputs: Inputs) -> Inputs:
    """Without what the model does not read."""
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
