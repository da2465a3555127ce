"""Two processes that train together end where one does."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.train import generator_trainer
from components.train.generator_trainer import Trainer
from components.train.generator_training import prepare, train
from components.train.generator_validation import fused_ndcg, validation_split
from components.train.rows import TASKS
from components.train.spec import Execution
from macrec.core.artifact import Artifact
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import UserError
from macrec.core.launched import join_processes, leave_processes
from macrec.core.processes import Processes
from macrec.generator.model import Recommender, build_model
from tests.small_generator import (
    CPU,
    ITEMS,
    SIZE,
    SMALL,
    VOCABULARY,
    Run,
    catalogue_codes,
    data_of,
    flat,
    planted_histories,
    random_sequences,
    small_model,
    stage_inputs,
)
from tests.stage_process import StageProcess

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = replace(SMALL, dropout=0.0, batch_size=7, item_pairs=5)  # shares differ
CASES = {
    "all tasks": {"implicit_weight": 0.3, "item_weight": 0.3, "label_smoothing": 0.1},
    "no pairs": {"tasks": ("seq_text_text", "seq_image_text"), "implicit_weight": 0.0},
    "averaged": {"average_decay": 0.9, "history_dropout": 0.3},
}
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
"""float32: sums of other orders, over 3 epochs of AdamW"""


def trained_on(config, together, **settings):
    """Trains on rows of which the last batch of an epoch has one, too few for two processes."""
    prepare(config.seed, "cpu", 1)
    model = build_model(VOCABULARY, config.model_size)
    sequences = random_sequences(10)
    data = data_of(sequences, catalogue_codes(3), config.tasks, use_pairs=config.use_pairs)
    assert len(data.sequence_rows) % config.batch_size == 1
    recommender = Recommender(model, VOCABULARY, *catalogue_codes(3), 5)
    validation = validation_split(sequences, 0, 0, "auto")
    score = fused_ndcg(recommender, validation, config, Execution(), CPU, together)
    return Run(model, train(model, data, config, score, CPU, processes=together, **settings))


def train_all(folder):
    """What each of the processes does; it leaves its weights and its curve."""
    torch.set_num_threads(1)
    together = join_processes()
    for case, settings in CASES.items():
        found = trained_on(replace(BASE, **settings), together)
        keep(found, f"{folder}/{case}-{together.rank}")
    config = replace(BASE, dropout=0.3)
    keep(trained_on(config, together), f"{folder}/whole-{together.rank}")
    uri = f"{folder}/checkpoints"
    try:
        trained_on(config, together, checkpoints=Dying(uri, every_seconds=0))
        raise AssertionError("it did not die")
    except InterruptedError:
        assert Checkpoints(uri).latest().state["numbers"]["batches"] > 0  # within an epoch
    found = trained_on(config, together, checkpoints=Checkpoints(uri))
    keep(found, f"{folder}/resumed-{together.rank}")
    leave_processes()


class Dying(Checkpoints):
    """Both processes die some steps after the first checkpoint, which only one has written."""

    asked = 0

    def is_due(self):
        self.asked += 1
        if self.asked == 20:
            raise InterruptedError
        return super().is_due()


def keep(found, stem):
    weights = {name: weight.detach() for name, weight in found.model.named_parameters()}
    save_file(weights, f"{stem}.safetensors")
    figures = found.trained._replace(seconds=0.0)._asdict()
    Path(f"{stem}.json").write_text(json.dumps(figures))


def kept(stem):
    return load_file(f"{stem}.safetensors"), json.loads(Path(f"{stem}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes have left."""
    path = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    call = f"from {__name__} import train_all; train_all({str(path)!r})"
    env = os.environ | place | {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", call], env=env | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0]
    return path


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(folder, case):
    alone = trained_on(replace(BASE, **CASES[case]), Processes())
    (ours, figures), (theirs, same_figures) = (kept(folder / f"{case}-{rank}") for rank in (0, 1))
    assert figures == same_figures
    for name, weight in alone.model.named_parameters():
        assert torch.equal(ours[name], theirs[name]), name
        torch.testing.assert_close(ours[name], weight.detach(), **TOLERANCE, msg=name)
    for found, expected in zip(figures["curve"], alone.trained.curve, strict=True):
        assert found.pop("losses") == pytest.approx(expected.pop("losses"), rel=1e-4)
        assert found == pytest.approx(expected)
    for name in ("steps", "rows", "padding_share", "best_epoch"):
        assert figures[name] == getattr(alone.trained, name)


@pytest.mark.slow
def test_two_processes_go_on_from_one_checkpoint_bit_for_bit(folder):
    """Dropout included: each process draws the masks that it would have drawn."""
    runs = [kept(folder / f"{what}-{rank}") for what in ("whole", "resumed") for rank in (0, 1)]
    first, figures = runs[0]
    for weights, same_figures in runs[1:]:
        assert figures == same_figures
        assert all(torch.equal(weights[name], weight) for name, weight in first.items())


@pytest.mark.slow
def test_the_stage_under_torchrun(tmp_path):
    """Process 0 alone writes and commits; a second start is handed the result."""
    inputs = stage_inputs(tmp_path, planted_histories(30), catalogue_codes(3))
    settings = {
        "d-model": 16, "d-ff": 32, "d-kv": 8, "layers": 1, "heads": 2, "dropout": 0.0,
        "batch-size": 9, "item-pairs": 5, "epochs": 2, "validation-beams": 4, "threads": 1,
    }  # fmt: skip
    stage = StageProcess("train", inputs, settings, tmp_path)
    assert stage.call("two", "store", processes=2).count("train: finished") == 1
    assert stage.call("again", "store", processes=2).count("reused") == 1
    stage.call("one", "other")
    ours, same, alone = (
        Artifact.open(tmp_path / out / "recommender") for out in ("two", "again", "one")
    )
    assert ours.digest == same.digest
    curves = [json.loads((part.path / "history.json").read_text()) for part in (ours, alone)]
    for found, expected in zip(*curves, strict=True):
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    weights = [load_file(part.path / "model.safetensors") for part in (ours, alone)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], **TOLERANCE, msg=name)
    assert len(list((tmp_path / "store" / "records").rglob("*.json"))) == 1


# ---------------------------------------------------------------- shares, without processes


class Shared(Processes):
    """One of several processes whose exchanges are looked at."""

    def __init__(self, rank, count):
        super().__init__(rank, count)
        self.summed = []

    def sum_all(self, tensors):
        self.summed.append([tensor.detach().clone() for tensor in tensors])

    def join_rows(self, own_BD, rows):
        assert len(own_BD) == len(range(rows)[self.share(rows)])
        return own_BD


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_a_batch_are_all_rows_once_and_of_like_length(monkeypatch, count):
    data = data_of(random_sequences(60), catalogue_codes(3), max_history=10)
    lengths_R = data.lengths(data.sequence_rows)
    index_B = np.argsort(lengths_R, kind="stable")[::6]  # sorted, as a batch is
    assert np.ptp(lengths_R[index_B]) > 20
    parts, original = [], generator_trainer.make_batch

    def watched(data, rows, own_B):
        parts.append(own_B)
        return original(data, rows, own_B)

    monkeypatch.setattr(generator_trainer, "make_batch", watched)
    for rank in range(count):
        Trainer(small_model(), data, BASE, CPU, processes=Shared(rank, count)).step(index_B)
    assert sorted(np.concatenate(parts).tolist()) == sorted(index_B.tolist())
    means = [lengths_R[part].mean() for part in parts]
    assert max(means) - min(means) < 1  # items have 3 tokens
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_batch_of_fewer_rows_than_processes_counts_them_once():
    data = data_of(random_sequences(), catalogue_codes(3), TASKS[:4], use_pairs=False)
    alone, *shared = Shared(0, 1), Shared(0, 3), Shared(1, 3), Shared(2, 3)
    for together in (alone, *shared):
        Trainer(small_model(), data, BASE, CPU, processes=together).step(np.array([5, 9]))
    for whole, *parts in zip(alone.summed[0], *(p.summed[0] for p in shared), strict=True):
        torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-6)


def test_each_process_draws_its_own_dropout_masks():
    data = data_of(random_sequences(), catalogue_codes(3), TASKS[:4], use_pairs=False)
    figures = []
    for rank in (0, 1):
        together = Shared(rank, 2)
        model = small_model(size=replace(SIZE, dropout=0.5))
        Trainer(model, data, BASE, CPU, processes=together).step(np.array([4, 4]))  # one row each
        figures.append(together.summed[0][-1])
    assert figures[0][0] != figures[1][0]


def test_validation_shares_the_users_out():
    sequences = random_sequences(9)
    recommender = Recommender(small_model(), VOCABULARY, *catalogue_codes(3), 5)
    validation = validation_split(sequences, 0, 0, "auto")

    class Adding(Processes):
        def sum(self, tensor):
            sums.append(float(tensor))

    scores = []
    for count in (1, 2, 20):  # 20: more than users
        sums = []
        for rank in range(count):
            together = Adding(rank, count)
            score = fused_ndcg(recommender, validation, BASE, Execution(), CPU, together)
            score(recommender.model)
        scores.append(sum(sums) / len(validation.targets_U))
    assert scores[0] > 0
    assert scores[1:] == pytest.approx(scores[:1] * 2)


def test_what_a_user_has_is_no_hit_of_validation_where_it_is_dropped():
    sequences = flat(*([i, i + 1, i, 0] for i in range(ITEMS - 1)))  # the third is asked for
    recommender = Recommender(small_model(), VOCABULARY, *catalogue_codes(), 5)
    scores = {}
    for choice in ("keep", "drop"):
        validation = validation_split(sequences, 0, 0, choice)
        config = replace(BASE, validation_beams=ITEMS)
        score = fused_ndcg(recommender, validation, config, Execution(), CPU)
        scores[choice] = score(recommender.model)
    assert scores["keep"] > 0 == scores["drop"]


def test_too_few_item_pairs_for_the_processes_are_refused():
    data = data_of(flat([0, 1, 2, 3]), catalogue_codes(3))
    with pytest.raises(UserError, match="5 item pairs cannot be shared by 6 processes"):
        Trainer(small_model(), data, BASE, CPU, processes=Processes(0, 6))
