"""Settings, inputs and outputs of the stage baselines."""

from dataclasses import dataclass, fields, replace
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from components.baselines.entries import ENTRIES, ModelName
from macrec.compute.device import Device
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.core.settings import COMMA_SEPARATED, Seed, settings_class
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems


@settings_class
class Settings:
    """Which model is trained, for how long, and how it ranks."""

    model: ModelName = "sasrec"
    """Model to train."""
    settings: Annotated[tuple[str, ...], COMMA_SEPARATED] = ()
    """Settings of the model, each as NAME=VALUE. The others keep their defaults."""
    max_history: PositiveInt = 20
    """Number of most recent items of a history that a model reads, as in train."""
    seen_items: SeenItems = "auto"
    """Whether a list may contain items of the user's own history: keep, drop or auto, as in
    evaluate."""
    epochs: PositiveInt = 200
    """Maximum number of epochs at the constant learning rate. The decay comes on top."""
    patience: PositiveInt = 10
    """Number of consecutive validations without a better NDCG@10 that ends the constant learning
    rate."""
    decay: NonNegativeFloat = 0.5
    """Length of the final linear decay of the learning rate to zero, as in train. It is a fraction
    of the number of epochs up to the best weights; 0 disables the decay."""
    validate_every: PositiveInt = 1
    """Number of epochs between validations. Each validation covers all validation users."""
    top_k: Annotated[int, Field(ge=10)] = 20
    """Length of the lists, at least 10. Metrics with a larger cutoff are omitted."""
    seed: Seed = 0
    """Random seed of the weights, the batches, the dropout and the masking."""


def unused_imports(config: Settings) -> set[tuple[str, str]]:
    """Return the imports of the registry that this configuration does not use.

    They are left out of the code version (`macrec.core.fingerprint`), so a change of one model does
    not invalidate the results of the others.
    """
    others = (name for name in ENTRIES if name != config.model)
    return {("components.baselines.registry", f"components.baselines.{name}") for name in others}


@settings_class
class Execution:
    """Device, batch size and threads. They do not change the method."""

    device: Device = "auto"
    """Device to run on: cpu, cuda or auto. auto selects cuda if it is available."""
    batch_size: PositiveInt = 512
    """Number of users that are ranked together."""
    threads: NonNegativeInt = 0
    """Number of CPU threads; 0 keeps the default of torch."""


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
    everyday=("model", "settings", "max_history", "seen_items", "epochs", "top_k", "seed"),
    used_inputs=used_inputs,
    unused_imports=unused_imports,
)
