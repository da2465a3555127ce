"""A training that is cut short goes on where it was, and ends as if nothing had happened."""

import os
import re
import signal
import time
from dataclasses import replace

import pytest
import torch

from components.quantize import data, quantizer_trainer, quantizer_training
from macrec.core.artifact import Artifact
from macrec.core.checkpoint import Checkpoints
from macrec.data.vectors import ScratchMatrix
from tests.planted import CPU, SMALL, make_inputs, planted, run, without
from tests.stage_process import StageProcess

CASES = {
    "refit": {},
    "gradient": {"codebook_update": "gradient", "contrastive_weights": (0.1, 0.2, 0.3)},
    "ema": {"codebook_update": "ema"},
    "head": {"align_head": 3, "shared_levels": 1},
    "balanced": {"sinkhorn_epsilons": (0.1,), "contrastive_positives": "one"},
    "fsq": {"tokenizer": "fsq", "fsq_levels": (2, 2, 2), "latent_dim": 3},
    "bfloat16": {"precision": "bfloat16"},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(case):
    return replace(SMALL, batch_size=20, epochs=4, **CASES[case])  # 5 steps an epoch


def same(one, other):
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


class CutShort(Exception):
    pass


def cut_short(monkeypatch, catalogue, config, checkpoints, after):
    """Trains, saving at every step, and fails when the step after the given one is taken."""
    original, taken = quantizer_trainer.Trainer.step, []

    def step(self, batch):
        taken.append(batch)
        if len(taken) > after:
            raise CutShort
        return original(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(quantizer_trainer.Trainer, "step", step)
        with pytest.raises(CutShort):
            quantizer_training.train(catalogue, config, CPU, checkpoints=checkpoints)


@pytest.mark.parametrize("case", ["refit", "bfloat16"])
def test_bfloat16_is_warned_of_where_it_costs_time(case, slow_bfloat16):
    quantizer_training.train(planted(), replace(config_of(case), epochs=1), CPU)
    assert slow_bfloat16() == (case == "bfloat16")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [3, 10, 12])  # in the first epoch, at the end of one, in another
def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path, monkeypatch, case, after):
    catalogue, config = without(planted(), "image", 4, 9), config_of(case)
    whole = quantizer_training.train(catalogue, config, CPU)
    uri = str(tmp_path / "checkpoints")
    cut_short(monkeypatch, catalogue, config, Checkpoints(uri, every_seconds=0), after)
    told = []
    resumed = quantizer_training.train(
        catalogue, config, CPU, told.append, checkpoints=Checkpoints(uri)
    )
    assert told[0] == (after - 1) // 5  # epochs that need not be repeated
    assert resumed.history == whole.history
    assert same(resumed, whole)


def test_steps_that_were_saved_are_not_taken_again(tmp_path, monkeypatch):
    catalogue, config, uri = planted(), config_of("refit"), str(tmp_path / "checkpoints")
    cut_short(monkeypatch, catalogue, config, Checkpoints(uri, every_seconds=0), after=12)
    cut_short(monkeypatch, catalogue, config, Checkpoints(uri, every_seconds=0), after=7)
    assert Checkpoints(uri).latest().step == 19


def test_a_checkpoint_is_saved_by_time_and_two_are_kept(tmp_path):
    catalogue, config = planted(), config_of("refit")
    now, uri = [0.0], str(tmp_path / "checkpoints")

    def clock():
        now[0] += 1.0  # asked once a step, and once when a save has ended
        return now[0]

    quantizer_training.train(
        catalogue, config, CPU, checkpoints=Checkpoints(uri, every_seconds=6, clock=clock)
    )
    steps = sorted(int(p.stem.split("-")[1]) for p in (tmp_path / "checkpoints").glob("*.json"))
    assert steps == [12, 18]


@pytest.mark.case(3)
def test_sigterm_is_answered_by_a_checkpoint_after_the_step(tmp_path, monkeypatch):
    catalogue, config, uri = planted(), config_of("refit"), str(tmp_path / "checkpoints")
    original, taken = quantizer_trainer.Trainer.step, []

    def step(self, batch):
        taken.append(batch)
        if len(taken) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(quantizer_trainer.Trainer, "step", step)
        with pytest.raises(SystemExit) as ended:
            quantizer_training.train(catalogue, config, CPU, checkpoints=Checkpoints(uri))
    assert ended.value.code == 143 and Checkpoints(uri).latest().step == 7
    resumed = quantizer_training.train(catalogue, config, CPU, checkpoints=Checkpoints(uri))
    assert same(resumed, quantizer_training.train(catalogue, config, CPU))


@pytest.mark.case(3)
@pytest.mark.slow
def test_a_terminated_stage_exits_with_143_and_goes_on_when_it_is_run_again(tmp_path):
    """As processes: the digests are those of a run without a signal, the checkpoints are gone."""
    inputs = make_inputs(tmp_path, planted())
    settings = {
        "codebook-size": 8, "levels": 3, "latent-dim": 4, "hidden": "12", "epochs": 60,
        "batch-size": 20, "refit-every": 20,
    }  # fmt: skip
    stage = StageProcess("quantize", inputs, settings, tmp_path, progress_seconds=0)
    with stage.start("a", "store") as cut:
        for line in cut.stderr:
            if "train quantizer: 5/60" in line:
                cut.send_signal(signal.SIGTERM)
                asked = time.monotonic()
        assert cut.wait() == 143 and time.monotonic() - asked < 5
    assert list((tmp_path / "store" / "checkpoints").rglob("*.json"))
    told = stage.call("a", "store")
    step = re.search(r"resumed from the checkpoint of step (\d+)", told)
    assert step and 20 <= int(step[1]) < 300
    assert not list((tmp_path / "store" / "checkpoints").rglob("*.*"))
    stage.call("b", "other")
    for name in ("latents", "quantizer"):
        digests = {Artifact.open(tmp_path / out / name).digest for out in "ab"}
        assert len(digests) == 1


# ---------------------------------------------------------------- vectors on disk


def test_where_the_vectors_lie_and_who_reads_them_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 16)
    inputs = make_inputs(tmp_path, without(planted(), "image", 4, 9))
    digests = set()
    for memory_gib in (1.0, 0.0):
        done = run(tmp_path / f"{memory_gib}", inputs, memory_gib=memory_gib)
        digests.add((done.latents.digest, Artifact.open(done.folder).digest))
    assert len(digests) == 1


def on_disk(catalogue, folder):
    return {
        name: part._replace(embedding_NE=data.OnDisk(scratch(part.embedding_NE.numpy(), folder)))
        for name, part in catalogue.items()
    }


def scratch(vectors, folder):
    matrix = ScratchMatrix(*vectors.shape, vectors.dtype, folder)
    matrix[:] = vectors
    return matrix


def test_batches_from_disk_are_those_in_memory(tmp_path):
    catalogue = without(planted(), "text", 2)
    rows = torch.randperm(90, generator=torch.Generator().manual_seed(0)).split(20)
    near = data.batches(catalogue, rows, CPU)
    far = data.batches(on_disk(catalogue, tmp_path), rows, CPU)
    for one, other, rows_B in zip(near, far, rows, strict=True):
        for name, part in catalogue.items():
            for a, b, all_of_it in zip(one[name], other[name], part, strict=True):
                assert torch.equal(a, b) and torch.equal(a, all_of_it[rows_B])
    whole = {name: part.to(CPU) for name, part in on_disk(catalogue, tmp_path).items()}
    for name, part in catalogue.items():
        assert all(torch.equal(a, b) for a, b in zip(whole[name], part, strict=True))


def test_a_read_that_fails_ends_the_training(tmp_path, monkeypatch):
    catalogue = on_disk(planted(), tmp_path)
    rows = [torch.tensor([0, 1]), torch.tensor([0, 90])]
    with pytest.raises(IndexError):
        list(data.batches(catalogue, rows, CPU))


def test_half_precision_vectors_train_like_whole_ones():
    """float16 is read as it is and computed in float32."""
    whole = {
        n: p._replace(embedding_NE=p.embedding_NE.half().float()) for n, p in planted().items()
    }
    half = {n: p._replace(embedding_NE=p.embedding_NE.half()) for n, p in planted().items()}
    assert same(
        quantizer_training.train(whole, SMALL, CPU), quantizer_training.train(half, SMALL, CPU)
    )


def test_kmeans_takes_a_sample_of_a_large_catalogue(monkeypatch):
    monkeypatch.setattr(quantizer_trainer, "REFIT_ITEMS", 0)
    catalogue = planted(600)
    config = replace(SMALL, codebook_size=2, levels=1, contrastive_weights=(), epochs=1)
    seen, refit = [], quantizer_trainer.codebooks.refit

    def watched(model, latents, present, generator):
        seen.append({name: len(latents_ND) for name, latents_ND in latents.items()})
        refit(model, latents, present, generator)

    monkeypatch.setattr(quantizer_trainer.codebooks, "refit", watched)
    quantizer_training.train(catalogue, config, CPU)
    assert seen == [{"text": 512, "image": 512}] * 2
