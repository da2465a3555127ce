"""What the speed benchmarks compare: stock is right, and the same work is counted on both sides."""

import json

import numpy as np
import pytest
import torch

from benchmarks.data import published
from benchmarks.speed import decode_speed, generator_data, stock, train_speed
from components.train import spec as train
from macrec.generator.model import ModelSize

TINY = ["d_model=8", "d_ff=16", "d_kv=4", "layers=1", "heads=2", "item_pairs=3"]
SIZE = ModelSize(d_model=8, d_ff=16, d_kv=4, layers=1, heads=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_catalogue(monkeypatch):
    monkeypatch.setattr(generator_data, "ITEMS", 30)
    monkeypatch.setattr(generator_data, "USERS", 20)
    monkeypatch.setattr(generator_data, "LEVELS", 2)
    monkeypatch.setattr(published, "CODEBOOK_SIZE", 8)


def run(monkeypatch, capsys, module, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    module.main()
    return json.loads(capsys.readouterr().out)


def test_stock_rows_are_all_tasks_of_the_training_part():
    rows = stock.task_rows([[5, 6, 7, 8, 9], [1, 2]], items=3, max_history=1)
    sequences = [row for row in rows if row.task.startswith("seq")]
    assert len(rows) == 4 * 2 + 2 * 3
    assert {(tuple(row.source), row.target) for row in sequences} == {((5,), 6), ((6,), 7)}
    codes = {"text": np.array([[1, 2], [3, 0]]), "image": np.array([[0, 0], [3, 3]])}
    tokens = stock.item_tokens(codes, codebook_size=4)
    first = stock.TEXT_TOKENS
    assert tokens["text"] == [[first + 1, first + 4 + 2], [first + 3, first + 4]]
    assert tokens["image"] == [[first + 8, first + 12], [first + 8 + 3, first + 12 + 3]]
    row = stock.Row("seq_text_image", [0, 1], 1)
    source, target = stock.TaskRows([row], tokens)[0]
    task = stock.TASK_TOKENS["seq_text_image"]
    assert source == [task, *tokens["text"][0], *tokens["text"][1], stock.EOS]
    assert target == [*tokens["image"][1], stock.EOS]
    assert len(set(stock.TASK_TOKENS.values())) == 6
    assert max(stock.TASK_TOKENS.values()) < stock.TEXT_TOKENS
    batch = stock.collate([(source, target), ([task, stock.EOS], target)])
    assert batch["input_ids"][1].tolist() == [task, stock.EOS, 0, 0, 0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [6, 2]


def test_a_step_is_counted_by_its_targets():
    data = generator_data.load(None)
    config = train.Settings(
        batch_size=4, item_pairs=3, d_model=8, d_ff=16, d_kv=4, layers=1, heads=2
    )
    _, steps, rows = train_speed._ours(data, config, torch.device("cpu"))(0.0)
    assert steps == 3
    assert rows == (3 * 4 * 2, 3 * 3 * 2)  # two targets of each source, both directions of a pair
    _, steps, rows = train_speed._stock(data, config, torch.device("cpu"))(0.0)
    assert steps == 3
    assert sum(rows) == 3 * 4
    assert rows.sequence > rows.item


def test_train_speed_prints_a_line(monkeypatch, capsys):
    given = ("--seconds", "0", "--rounds", "2", "--batch", "4", "--set", *TINY)
    line = run(monkeypatch, capsys, train_speed, *given)
    for name in ("stock", "ours"):
        low, high = line[f"{name}_rows_range"]
        assert 0 < low <= line[f"{name}_rows_per_second"] <= high
        assert line[f"{name}_steps"] == [3, 3]
    ratio = line["ours_rows_per_second"] / line["stock_rows_per_second"]
    assert line["ratio"] == pytest.approx(ratio, abs=0.02 + 0.02 * ratio)
    assert line["sequence_ratio"] < line["ratio"]  # ours has more of the short item rows


def test_train_speed_profiles_ours(monkeypatch, capsys):
    given = ["--seconds", "0", "--batch", "4", "--profile", "--set", *TINY]
    monkeypatch.setattr("sys.argv", ["benchmark", *given])
    train_speed.main()
    assert "Self CPU" in capsys.readouterr().out


def test_decoding_is_that_of_generate_and_exact_with_enough_beams(monkeypatch, capsys):
    monkeypatch.setattr(decode_speed, "ModelSize", lambda: SIZE)
    few = ("--rounds", "1", "--users", "6", "--stock-users", "4", "--stock-batch", "2,4")
    more = ("--compared", "5", "--oracle-users", "8")
    line = run(monkeypatch, capsys, decode_speed, *few, *more, "--beams", "5")
    assert line["same_as_generate"] == line["compared_lists"] == 10
    assert line["largest_score_difference"] < 1e-4
    assert line["stock_batch"] in (2, 4)
    for side in ("stock_one", "ours_one", "stock_both", "ours_both", "ours_fused"):
        assert line[f"{side}_users_per_second"] > 0
    line = run(monkeypatch, capsys, decode_speed, *few, *more, "--beams", "30")
    assert line["text_recall_10"] == line["image_recall_20"] == 1.0
    low = run(monkeypatch, capsys, decode_speed, *few, *more, *("--precision", "bfloat16"))
    assert (low["precision"], line["precision"]) == ("bfloat16", "float32")
    assert 1e-4 < low["largest_score_difference"] < 1
