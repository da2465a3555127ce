"""Trains the quantizers of all modalities together, and resumes an interrupted training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from components.quantize.data import Catalogue
from components.quantize.quantizer_trainer import Trainer
from components.quantize.spec import Settings
from macrec.core.checkpoint import Checkpoints, SharedCheckpoints
from macrec.core.errors import check
from macrec.core.processes import ALONE, Processes
from macrec.tokenizer.quantizer import CrossModalQuantizer


class TrainedQuantizer(NamedTuple):
    """The model and one record of figures per epoch; losses are means over the steps."""

    model: CrossModalQuantizer
    history: list[dict[str, Any]]


def _check_counts(catalogue: Catalogue, config: Settings) -> None:
    for name, data in catalogue.items():
        count = int(data.present_N.sum())
        check(
            count >= config.codebook_size or config.tokenizer == "fsq",
            f"{name}_embeddings: {count} of {len(data.present_N)} items have a vector, too few for "
            f"{config.codebook_size} codewords per level. Set quantize.codebook_size to at most "
            f"{max(count // 4, 1)} (a quarter of the items), or to 0.",
        )


def train(
    catalogue: Catalogue,
    config: Settings,
    device: torch.device,
    on_epoch: Callable[[int], None] = lambda _: None,
    *,
    checkpoints: Checkpoints | None = None,
    processes: Processes = ALONE,
    compiled: bool = False,
) -> TrainedQuantizer:
    """Train the quantizer, or resume an interrupted training.

    The same catalogue, config and kind of device give the same model. On a CPU it is the same bit
    for bit, even if the training was interrupted.

    Args:
        catalogue: the modalities that get codes.
        config: settings with every size filled in (`components.quantize.sizes`).
        device: where the model is trained; the vectors may be elsewhere.
        on_epoch: is called with the number of epochs done since the last call.
        checkpoints: where the state is saved and searched for; None saves nothing.
        processes: the processes that train together.
        compiled: whether the networks are compiled.
    """
    _check_counts(catalogue, config)
    checkpoints = checkpoints or Checkpoints()
    shared = SharedCheckpoints(checkpoints, processes)
    found = shared.latest()
    state = found.state if found else None
    trainer = Trainer(
        catalogue, config, device, processes=processes, compiled=compiled, state=state
    )
    on_epoch(len(trainer.history))
    with checkpoints.watch_for_sigterm():
        while config.tokenizer != "rqkmeans" and len(trainer.history) < config.epochs:
            trainer.epoch(lambda: shared.save_if_due(trainer.steps, trainer.state))
            on_epoch(1)
    return TrainedQuantizer(trainer.model.eval(), trainer.history)
