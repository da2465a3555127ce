"""Stage baselines: one system that MACRec is compared with, on the same split and ranking."""

import sys
import time
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from components.baselines.registry import ENTRIES, ModelName
from macrec.core import stage
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.core.errors import UserError, check
from macrec.data import schema
from macrec.data.sequences import SeenItems, drops_seen
from macrec.data.split import Split, read_split

if TYPE_CHECKING:
    from components.baselines.baseline_ranking import Protocol
    from components.baselines.interface import Course, Data


@dataclass(frozen=True, kw_only=True)
class Config:
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


def not_run(config: Config) -> set[tuple[str, str]]:
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


def used_inputs(config: Config, inputs: Inputs) -> Inputs:
    """Without what the model does not read."""
    left_out = {f.name for f in fields(inputs)} - {"sequences", "items"}
    return replace(inputs, **dict.fromkeys(left_out - set(ENTRIES[config.model].reads)))


def run(config: Config, inputs: Inputs, outputs: Outputs, execution: Execution) -> stage.Metrics:
    """Fits the model on the training part, ranks the whole catalogue for every test user.

    The last item of a history is the test, the last but one the validation, which is part of the
    history at test; whether seen items stay in the lists, `seen_items` says: all as in evaluate.

    Raises:
        UserError: the settings or the inputs do not fit the model, or no user can be tested.
    """
    from components.baselines import baseline_ranking, model_folder
    from components.baselines.registry import baseline, read_settings

    module = baseline(config.model)
    own = module.Config(**read_settings(config.model, config.settings))
    split, data, course = opened(config, inputs, execution)
    started = time.monotonic()
    fitted = module.fit(own, data, course)
    seconds = time.monotonic() - started
    with outputs.predictions.dataset(schema.PREDICTIONS) as out:
        tested = baseline_ranking.test(
            fitted.model,
            config.model,
            split,
            data.items,
            protocol_of(config, split, execution),
            top_k=config.top_k,
            write=out.write,
        )
    model_folder.save(outputs.fitted.path, config.model, own, data, fitted)
    return baseline_ranking.figures(tested, split, data.items) | {
        "validation_ndcg_10": course.validate(fitted.model),
        "parameters": float(fitted.model.parameters),
        "train_seconds": seconds,
        "epochs": float(len(fitted.curve)),
    }


def protocol_of(config: Config, split: Split, execution: Execution) -> "Protocol":
    """What the lists of every model have in common."""
    from components.baselines.baseline_ranking import Protocol

    drop_seen = drops_seen(config.seen_items, split.sequences)
    return Protocol(config.max_history, drop_seen, execution.batch_size)


def opened(config: Config, inputs: Inputs, execution: Execution) -> tuple[Split, "Data", "Course"]:
    """The histories, what the model may learn from them, and how long.

    Raises:
        UserError: an input that the model reads is not given.
    """
    from components.baselines.baseline_ranking import validator
    from components.baselines.interface import Course, Data

    if execution.threads:
        import torch

        torch.set_num_threads(execution.threads)
    reads = ENTRIES[config.model].reads
    given = {name: artifact for name in reads if (artifact := getattr(inputs, name))}
    absent = ", ".join(name for name in reads if name not in given)
    if absent:
        raise UserError(f"baselines: {config.model} reads {absent}. Give it, or another model.")
    items = inputs.items.rows
    split = read_split(inputs.sequences, items)
    training = split.training()
    for array in (training.items, training.offsets):
        array.setflags(write=False)  # a model that sorts in place would spoil the next trial
    data = Data(items, training, config.max_history, given)
    course = Course(
        config.epochs,
        config.patience,
        config.decay,
        config.validate_every,
        config.seed,
        execution.device,
        validator(split, protocol_of(config, split, execution)),
    )
    return split, data, course


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
