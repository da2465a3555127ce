"""Runs the training: epochs, validation, early stopping, decay, checkpoints."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import T5ForConditionalGeneration

from components.train.generator_trainer import Trainer
from components.train.learning_rate import decay_epochs
from components.train.rows import TrainingData
from components.train.spec import Settings
from components.train.state import CurveRow, State, write
from macrec.compute.device import choose_device, keep_freed_memory
from macrec.core.checkpoint import Checkpoints, SharedCheckpoints
from macrec.core.processes import ALONE, Processes
from macrec.core.progress import Progress, log

Score = Callable[["T5ForConditionalGeneration"], float]


class TrainedGenerator(NamedTuple):
    """The result of a training; the model holds the best weights."""

    curve: list[CurveRow]
    best_ndcg: float
    best_epoch: int
    epochs: int
    steps: int
    rows: int
    """Rows trained on, summed over epochs."""
    seconds: float
    """Time of the steps alone, without validation and checkpoints."""
    padding_share: float

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the stage."""
        last_losses = {f"loss_{task}": loss for task, loss in self.curve[-1]["losses"].items()}
        return last_losses | {
            "validation_ndcg_at_10": self.best_ndcg,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "steps": self.steps,
            "rows_per_second": self.rows / max(self.seconds, 1e-9),
            "padding_share": self.padding_share,
        }


def train(
    model: T5ForConditionalGeneration,
    data: TrainingData,
    config: Settings,
    score: Score,
    device: torch.device,
    *,
    checkpoints: Checkpoints | None = None,
    processes: Processes = ALONE,
    clock: Callable[[], float] = time.monotonic,
) -> TrainedGenerator:
    """Train until validation stops improving, decay the rate to zero, and restore the best.

    The same weights, data and config give the same model on a CPU, bit for bit, even if the
    training was interrupted.

    Args:
        model: on `device`, the same in every process.
        data: the same in every process.
        config: settings of the training.
        score: measures the model (validation NDCG@10, higher is better), alike in every process.
        device: where the model is.
        checkpoints: where the state is saved and searched for; None saves nothing.
        processes: the processes that train together.
        clock: returns seconds.

    Raises UserError if the loss is not finite; the model then holds the weights before that step.
    """
    trainer = Trainer(model, data, config, device, processes=processes, clock=clock)
    checkpoints, state = checkpoints or Checkpoints(), trainer.state
    shared = SharedCheckpoints(checkpoints, processes)
    found = shared.latest()
    if found:
        state.load(found.state)
    with checkpoints.watch_for_sigterm():
        if not state.decaying:
            _run_phase("train", trainer, score, shared)
            _begin_decay(trainer)
        if state.decaying:
            _run_phase("train, decay", trainer, score, shared)
    write(state.weights(), state.best)
    return TrainedGenerator(
        state.curve,
        state.best_ndcg,
        state.best_epoch,
        state.epoch,
        state.step,
        state.rows,
        state.seconds,
        1 - state.tokens / state.padded_tokens,
    )


def _run_phase(what: str, trainer: Trainer, score: Score, shared: SharedCheckpoints) -> None:
    """Run the remaining epochs of a phase."""
    state, config = trainer.state, trainer.config
    end = state.phase_start + state.phase_epochs
    done = min(state.batches * config.batch_size, trainer.targets)
    total = (end - state.epoch) * trainer.targets - done

    def after_step(rows: int, loss: float) -> None:
        progress.advance(rows, f"epoch {state.epoch + 1}, loss {loss:.3f}")
        shared.save_if_due(state.step, state.saved)

    with Progress(what, total, "rows") as progress:
        while state.epoch < end and (state.decaying or state.stale < config.patience):
            losses = trainer.epoch(after_step)
            number = state.epoch - state.phase_start
            due = number % config.validate_every == 0 or state.epoch == end
            _end_epoch(state, losses, _validate(state, score) if due else None)
            shared.save_if_due(state.step, state.saved, ask=True)


def _begin_decay(trainer: Trainer) -> None:
    state = trainer.state
    epochs = decay_epochs(trainer.config.decay, state.best_epoch)
    if epochs:
        log.info("train: best epoch %d, decaying for %d epochs", state.best_epoch, epochs)
        state.begin_decay(epochs, epochs * trainer.steps_per_epoch)


def _validate(state: State, score: Score) -> float:
    state.model.eval()
    with torch.no_grad(), state.averaged():
        return score(state.model)


def _end_epoch(state: State, losses: dict[str, float], ndcg: float | None) -> None:
    state.curve.append(
        {
            "step": state.step,
            "epoch": state.epoch,
            "learning_rate": state.schedule.rate(state.step - 1),
            "losses": losses,
            "validation_ndcg_at_10": ndcg,
        }
    )
    if ndcg is None:
        return
    shown = ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items())
    speed = state.rows / max(state.seconds, 1e-9)
    log.info("train: epoch %d, NDCG@10 %.4f, %s, %.0f rows/s", state.epoch, ndcg, shown, speed)
    if ndcg > state.best_ndcg:
        state.keep_best(ndcg)
    else:
        state.stale += 1


def prepare(seed: int, device: str, threads: int, processes: Processes = ALONE) -> torch.device:
    """Seed torch (for the weights), set its threads (0 keeps them), and choose the device."""
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    chosen = processes.device(choose_device(device))
    if chosen.type == "cpu":
        keep_freed_memory()
    return chosen
