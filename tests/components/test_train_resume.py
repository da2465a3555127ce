"""A training that is cut short goes on where it was, and ends as if nothing had happened."""

import os
import re
import signal
import time
from dataclasses import replace

import pytest
import torch

from components.train import generator_trainer, generator_training
from macrec.core.artifact import Artifact
from macrec.core.checkpoint import Checkpoints
from tests.small_generator import (
    SMALL,
    catalogue_codes,
    planted_histories,
    stage_inputs,
    train_small,
    weight_score,
)
from tests.stage_process import StageProcess

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = replace(SMALL, batch_size=12, epochs=9, patience=2, decay=0.5, dropout=0.2)
CASES = {  # and the epochs that they have, and the best of them
    "all tasks": ({}, 5, 2),
    "averaged": ({"average_decay": 0.9, "history_dropout": 0.3, "validate_every": 2}, 7, 7),
    "no pairs": ({"tasks": ("seq_text_text", "seq_image_text"), "implicit_weight": 0.0}, 5, 2),
    "no decay": ({"decay": 0.0, "epochs": 3}, 3, 2),
}
STEPS = 4  # of an epoch
PLAN = {1: 0.3, 2: 0.5, 3: 0.2, 4: 0.4, 5: 0.45, 6: 0.3, 7: 0.6}
"""About the score of every epoch: epoch 2 is the best before the decay, which may not better it."""


@pytest.fixture(autouse=True)
def planned_scores(monkeypatch):
    original = generator_training._validate

    def planned(state, score):
        return PLAN[state.epoch] + 0.01 * original(state, score)

    monkeypatch.setattr(generator_training, "_validate", planned)


class Killed(Exception):
    pass


class Fragile(Checkpoints):
    """Is asked to save every so many times; the process dies after the first save.

    What was saved is told as (epochs, steps of the epoch under way, validated, decaying).
    """

    def __init__(self, uri, every):
        super().__init__(uri)
        self.every, self.asked, self.told = every, 0, None

    def is_due(self):
        self.asked += 1
        return self.asked % self.every == 0

    def save(self, step, state):
        numbers = state["numbers"]
        validated = numbers["batches"] == 0
        decaying = state["decay"][0] is not None
        super().save(step, state)
        self.told = numbers["epoch"], numbers["batches"], validated, decaying
        raise Killed


def until_it_ends(config, uri, every):
    """Trains in as many processes as it takes; what was saved, and the end."""
    told = []
    for _ in range(40):
        checkpoints = Fragile(uri, every)
        try:
            return told, train_small(config, checkpoints=checkpoints)
        except Killed:
            told.append(checkpoints.told)
    raise AssertionError(f"it does not end: {told}")


def assert_same(resumed, whole):
    first, second = resumed.model.state_dict(), whole.model.state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    assert resumed.trained._replace(seconds=0.0) == whole.trained._replace(seconds=0.0)


@pytest.mark.parametrize(
    ("case", "every"),
    [*((case, 1) for case in CASES), ("all tasks", 3), ("all tasks", 5), ("averaged", 5)],
)
def test_a_training_that_dies_again_and_again_is_the_same_bit_for_bit(tmp_path, case, every):
    settings, epochs, best = CASES[case]
    config = replace(BASE, **settings)
    whole = train_small(config)
    assert (whole.trained.epochs, whole.trained.best_epoch) == (epochs, best)
    told, resumed = until_it_ends(config, str(tmp_path / "checkpoints"), every)
    assert_same(resumed, whole)
    if every == 1:  # after each and every step, the last of an epoch not yet validated
        assert len(told) == whole.trained.steps
    assert any(decaying for *_, decaying in told) == (config.decay > 0)


def test_the_cases_are_cut_everywhere(tmp_path):
    """Also right after a validation, and before and after the way back to the best weights."""
    told = set()
    for every in (1, 3, 5):
        told |= set(until_it_ends(BASE, str(tmp_path / str(every)), every)[0])
    for decaying, epoch in ((False, 1), (True, 4)):
        assert {(epoch, 1, False, decaying), (epoch, STEPS, False, decaying)} <= told
    assert {(1, 0, True, False), (4, 0, True, False), (5, 0, True, True)} <= told


def test_steps_and_epochs_that_were_saved_are_not_taken_again(tmp_path, monkeypatch):
    steps, validated, step = [], [], generator_trainer.Trainer.step

    def watched(self, index_B):
        steps.append(self.state.step)
        return step(self, index_B)

    validate = generator_training._validate
    monkeypatch.setattr(generator_trainer.Trainer, "step", watched)
    monkeypatch.setattr(
        generator_training,
        "_validate",
        lambda state, score: validated.append(1) or validate(state, score),
    )
    _, (_, trained) = until_it_ends(BASE, str(tmp_path / "checkpoints"), 1)
    assert steps == list(range(trained.steps))
    assert len(validated) == trained.epochs


def test_a_checkpoint_has_every_weight_once_and_no_moments_of_the_best_in_the_decay(tmp_path):
    config = replace(BASE, average_decay=0.9)
    uri, sizes = str(tmp_path / "checkpoints"), {False: [], True: []}

    class Watched(Checkpoints):
        def is_due(self):
            return True

        def save(self, step, state):
            super().save(step, state)
            file = max((tmp_path / "checkpoints").glob("*.safetensors"))
            sizes[state["decay"][0] is not None].append(file.stat().st_size)

    model, _ = train_small(config, checkpoints=Watched(uri))
    first, *rest = sizes[False]
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    # weights, average, two moments; as many of the best, of which the decay needs but the average
    for size, copies in ((first, 4), (max(rest), 8), (max(sizes[True]), 5)):
        assert copies <= size / weights < copies + 1
    assert len(list((tmp_path / "checkpoints").glob("*.json"))) == 2


@pytest.mark.case(3)
def test_sigterm_is_answered_by_a_checkpoint_after_the_step(tmp_path, monkeypatch):
    uri, step = str(tmp_path / "checkpoints"), generator_trainer.Trainer.step

    def terminated(self, index_B):
        if self.state.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, index_B)

    with monkeypatch.context() as patched:
        patched.setattr(generator_trainer.Trainer, "step", terminated)
        with pytest.raises(SystemExit) as ended:
            train_small(BASE, checkpoints=Checkpoints(uri))
    assert ended.value.code == 143 and Checkpoints(uri).latest().step == 7
    assert_same(train_small(BASE, checkpoints=Checkpoints(uri)), train_small(BASE))


def test_sigterm_while_validating_keeps_the_validation(tmp_path):
    uri, asked = str(tmp_path / "checkpoints"), []

    def terminated(model):
        asked.append(model)
        os.kill(os.getpid(), signal.SIGTERM)
        return weight_score(model)

    with pytest.raises(SystemExit):
        train_small(BASE, terminated, checkpoints=Checkpoints(uri))
    assert len(asked) == 1
    numbers = Checkpoints(uri).latest().state["numbers"]
    assert (numbers["epoch"], numbers["batches"], len(numbers["curve"])) == (1, 0, 1)
    assert_same(train_small(BASE, checkpoints=Checkpoints(uri)), train_small(BASE))


@pytest.mark.case(3)
@pytest.mark.slow
def test_a_terminated_stage_exits_with_143_and_goes_on_when_it_is_run_again(tmp_path):
    """As processes: the digests are those of a run without a signal, the checkpoints are gone."""
    inputs = stage_inputs(tmp_path, planted_histories(60), catalogue_codes(3))
    settings = {
        "d-model": 16, "d-ff": 32, "d-kv": 8, "layers": 1, "heads": 2, "batch-size": 8,
        "item-pairs": 4, "epochs": 4, "validate-every": 2, "validation-beams": 4,
        "threads": 1,
    }  # fmt: skip
    stage = StageProcess("train", inputs, settings, tmp_path, progress_seconds=0)
    with stage.start("a", "store") as cut:
        for line in cut.stderr:
            if "epoch 3, loss" in line:
                cut.send_signal(signal.SIGTERM)
                asked = time.monotonic()
        assert cut.wait() == 143 and time.monotonic() - asked < 5
    assert list((tmp_path / "store" / "checkpoints").rglob("*.json"))
    told = stage.call("a", "store")
    assert re.search(r"resumed from the checkpoint of step \d+", told)
    assert "epoch 2, loss" not in told
    assert not list((tmp_path / "store" / "checkpoints").rglob("*.*"))
    stage.call("b", "other")
    assert len({Artifact.open(tmp_path / out / "recommender").digest for out in "ab"}) == 1


@pytest.mark.case(12)
def test_the_state_of_another_model_is_refused(tmp_path):
    """A checkpoint lies below its fingerprint, so this is a mistake of ours, not of a user."""
    uri = str(tmp_path / "checkpoints")
    with pytest.raises(Killed):
        train_small(BASE, checkpoints=Fragile(uri, 1))
    with pytest.raises(AssertionError):
        train_small(replace(BASE, layers=2), checkpoints=Checkpoints(uri))


def test_every_step_has_its_own_item_pairs_and_dropout_masks(monkeypatch):
    """Drawn from the step, they must not be those of another step."""
    drawn, original = [], generator_trainer.generator

    def watched(seed, stream, *place):
        drawn.append((int(stream), *place))
        return original(seed, stream, *place)

    monkeypatch.setattr(generator_trainer, "generator", watched)
    masks, loss = [], generator_trainer.Trainer._loss

    def first_random_number(self, index_B, weights):
        masks.append(torch.rand((), generator=torch.default_generator.clone_state()).item())
        return loss(self, index_B, weights)

    monkeypatch.setattr(generator_trainer.Trainer, "_loss", first_random_number)
    _, trained = train_small(replace(BASE, history_dropout=0.3))
    per_step, per_epoch = 2 * trained.steps, 2 * trained.epochs
    assert len(drawn) == len(set(drawn)) == per_step + per_epoch
    assert len(masks) == len(set(masks)) == trained.steps
