"""Trainings that are killed, ended, resumed elsewhere or led astray, and their checkpoints."""

import json
import math
import os
import re
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch

from components.quantize import quantizer_training as quantizing
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import UserError
from tests import planted
from tests.faults.toy import content
from tests.small_generator import (
    SMALL,
    catalogue_codes,
    planted_histories,
    stage_inputs,
    train_small,
)
from tests.stage_process import StageProcess

SECONDS = 1.0
"""Time between two checkpoints in the tests of time."""


@pytest.mark.case(5)
@pytest.mark.parametrize(
    ("point", "step"),
    [
        ("checkpoint uploaded:3", 2),
        ("object not yet named:6", 2),  # the manifest of step 3
        ("checkpoint file deleted:1", 3),
    ],
)
def test_killed_while_saving_the_checkpoint_before_loads(toy, tmp_path, point, step, trials):
    out, store = tmp_path / "out", tmp_path / "store"
    assert toy.call(out, store, point, steps=4).code == -signal.SIGKILL
    again = toy.call(out, store, steps=4)
    assert again.code == 0 and f"resumed from the checkpoint of step {step} " in again.told
    assert "damaged" not in again.told
    trials("kills while a checkpoint is saved", 1)


@pytest.mark.case(12)
def test_a_checkpoint_is_not_picked_up_by_another_training_and_refused_if_put_there(toy, tmp_path):
    store, folders = tmp_path / "store", {}
    for parts in (3, 2):
        out = tmp_path / f"{parts}"
        ended = toy.call(out, store, "checkpoint sealed:2", steps=4, parts=parts)
        assert ended.code == -signal.SIGKILL and "resumed" not in ended.told
        known = set(folders.values())
        (folders[parts],) = set((store / "checkpoints" / "toy").iterdir()) - known
    for path in folders[3].iterdir():
        shutil.copy(path, folders[2] / path.name)
    for path in folders[2].glob("step-000000000002-*"):
        if not (folders[3] / path.name).exists():
            path.unlink()
    refused = toy.call(tmp_path / "2", store, steps=4, parts=2)
    assert refused.code == 2, refused.told
    assert "checkpoint of another training (config.parts: 3, here 2; fingerprint:" in (refused.told)
    assert toy.call(tmp_path / "3", store, steps=4, parts=3).code == 0


@pytest.mark.case(12)
def test_what_differs_is_named(tmp_path):
    uri = str(tmp_path / "checkpoints")
    one = {"config": {"levels": 3, "rates": (1, 2)}, "inputs": {"semantic_ids": "a"}}
    other = {"config": {"levels": 4, "rates": (1, 2)}, "inputs": {"semantic_ids": "b"}}
    Checkpoints(uri, made_for=one).save(1, {})
    assert Checkpoints(uri, made_for=one).latest() == (1, {})
    told = r'config\.levels: 3, here 4; inputs\.semantic_ids: "a", here "b"\)'
    with pytest.raises(UserError, match=told):
        Checkpoints(uri, made_for=other).latest()
    assert Checkpoints(uri, made_for=one).latest() == (1, {})  # it is left where it is


def training(folder) -> StageProcess:
    """The stage train for some ten seconds, and a line of its log for every step."""
    inputs = stage_inputs(folder, planted_histories(60), catalogue_codes(3))
    settings = {
        "d-model": 16, "d-ff": 32, "d-kv": 8, "layers": 1, "heads": 2, "batch-size": 8,
        "item-pairs": 4, "epochs": 40, "patience": 40, "validate-every": 40,
        "validation-beams": 4, "threads": 1, "checkpoint-seconds": SECONDS,
    }  # fmt: skip
    return StageProcess("train", inputs, settings, folder, progress_seconds=0)


def rows_of(line: str) -> int:
    found = re.search(r"train: ([\d,]+)/", line)
    return int(found[1].replace(",", "")) if found else 0


@pytest.mark.case(4)
@pytest.mark.parametrize("answered", [True, False])
def test_sigterm_and_dead_after_a_moment_loses_no_more_than_the_interval(
    tmp_path, answered, sized, trials
):
    """Without an answer the process is stopped first, as on a machine that is overwhelmed."""
    stage = training(tmp_path)
    reached: list[tuple[float, int]] = []  # when so many rows were done
    with stage.start("a", "store") as cut:
        ends_at = math.inf
        for line in cut.stderr:
            now = time.monotonic()
            reached.append((now, rows_of(line)))
            if rows_of(line) and ends_at == math.inf:
                ends_at = now + 4 * SECONDS
            if now >= ends_at:
                break
        if not answered:
            cut.send_signal(signal.SIGSTOP)
        cut.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        cut.kill()
        asked = now
        cut.stderr.read()
    assert cut.returncode in ((143, -signal.SIGKILL) if answered else (-signal.SIGKILL,))
    with stage.start("a", "store") as again:
        for line in again.stderr:
            if found := re.search(r"resumed from the checkpoint of step (\d+)", line):
                step = int(found[1])
                break
        again.kill()
        again.stderr.read()
    saved = max((when for when, rows in reached if rows and rows <= 8 * step), default=0.0)
    assert asked - saved < SECONDS + 1.5, "and what a save and a step take"
    trials("trainings ended within 0.6 s", 1)


# ---------------------------------------------------------------- numbers that are not finite


def is_finite(value) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(value.isfinite().all()) if value.is_floating_point() else True
    if isinstance(value, dict):
        return all(is_finite(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(is_finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.case(36)
@pytest.mark.usefixtures("one_thread")
def test_a_quantizer_that_diverges_keeps_its_last_good_checkpoint(tmp_path, monkeypatch):
    from components.quantize import quantizer_trainer

    step, uri = quantizer_trainer.Trainer.step, str(tmp_path / "checkpoints")

    def poisoned(self, batch):
        if self.steps == 7:
            for group in self.optimizer.param_groups:
                group["lr"] = 1e30
        return step(self, batch)

    monkeypatch.setattr(quantizer_trainer.Trainer, "step", poisoned)
    config = replace(planted.SMALL, batch_size=20, epochs=9)  # 5 steps an epoch
    with pytest.raises(UserError, match=r"quantize: .* stopped being finite in "):
        quantizing.train(
            planted.planted(), config, planted.CPU, checkpoints=Checkpoints(uri, every_seconds=0)
        )
    kept = Checkpoints(uri).latest()
    assert kept is not None and kept.step >= 7 and is_finite(kept.state)


@pytest.mark.case(36)
@pytest.mark.usefixtures("one_thread")
def test_a_generator_that_diverges_keeps_its_last_good_checkpoint(tmp_path):
    uri = str(tmp_path / "checkpoints")
    config = replace(SMALL, learning_rate=1e30, warmup_steps=0, clip_norm=1e30)
    with pytest.raises(UserError, match=r"train: step \d+ .*The step was not taken"):
        train_small(config, checkpoints=Checkpoints(uri, every_seconds=0))
    kept = Checkpoints(uri).latest()
    assert kept is not None and is_finite(kept.state["weights"])


@pytest.mark.case(36)
def test_a_stage_that_diverges_writes_no_json_with_nan(tmp_path):
    inputs = planted.make_inputs(tmp_path, planted.planted())
    settings = {
        "codebook-size": 8, "levels": 3, "latent-dim": 4, "hidden": "12", "epochs": 3,
        "batch-size": 20, "learning-rate": 1e30,
    }  # fmt: skip
    with StageProcess("quantize", inputs, settings, tmp_path).start("a", "store") as process:
        told = process.stderr.read()
    assert process.returncode == 2 and "stopped being finite" in told.splitlines()[-1]
    assert "Traceback" not in told and content(tmp_path / "a") == {}
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    assert not list((tmp_path / "store").rglob("records/*")) and os.listdir(tmp_path / "a")
