"""The paper-scale benchmark on a made-up data set in the same files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.data import published
from benchmarks.quality import epoch_plan, instruments
from components.train import spec as train
from components.train import stage
from macrec.core.errors import UserError
from macrec.core.progress import log
from macrec.generator.model import load_recommender

ITEMS, USERS, CODEBOOK = 20, 30, published.CODEBOOK_SIZE
SMALL = ["d_model=8", "d_ff=16", "d_kv=4", "layers=1", "heads=2", "warmup_steps=2", "item_pairs=4"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Text codes of the items 3 and 7 are those of item 0; users are not in the order of names."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lists = [list(range(ITEMS))] + [rng.integers(0, ITEMS, 6).tolist() for _ in range(USERS - 1)]
    histories = {str(USERS - u): items for u, items in enumerate(lists)}
    (folder / "Toy.inter.json").write_text(json.dumps(histories))
    codes = {"lemb": [[0, 2 * i] for i in range(ITEMS)], "vitemb": [[i, 9] for i in range(ITEMS)]}
    codes["lemb"][3] = codes["lemb"][7] = codes["lemb"][0]
    for name, (first, second) in {"lemb": "ab", "vitemb": "AB"}.items():
        index = {
            str(i): [f"<{first}_{a}>", f"<{second}_{b}>"] for i, (a, b) in enumerate(codes[name])
        }
        (folder / f"Toy.index_{name}.json").write_text(json.dumps(index))
    return folder


def options(monkeypatch, data, work, *more):
    command = ["--data", data, "--work", work, "--results", work / "r.json", "--device", "cpu"]
    small = ["--set", *SMALL, "--set-evaluate", "beams=5", "single_modality_beams=10", "examples=2"]
    monkeypatch.setattr("sys.argv", ["instruments.py", *map(str, command), *small, *more])
    return instruments._options()


def test_the_first_of_a_code_keeps_it_and_the_others_take_the_next_free_one():
    codes_NL = np.array([[1, 5], [1, 5], [1, 6], [1, 5], [2, 5], [1, 7], [1, 7], [1, 7]])
    unique = published.resolve(codes_NL, 10)
    assert unique.codes_NL[:, 1].tolist() == [5, 8, 6, 9, 5, 7, 0, 1]
    assert unique.codes_NL[:, 0].tolist() == codes_NL[:, 0].tolist()
    assert unique.moved_N.tolist() == [-1, 1, -1, 1, -1, -1, 1, 1]
    with pytest.raises(UserError, match=r"item 2: all codes that begin with \[1\] are taken"):
        published.resolve(np.array([[1, 0], [1, 1], [1, 0]]), 2)


def test_the_artifacts_are_the_files_in_their_order(data, tmp_path):
    made = published.write(data, tmp_path, users=4)
    histories = json.loads((data / "Toy.inter.json").read_text())
    kept = dict(list(histories.items())[:4])
    table = made.sequences.table()
    assert table.column("user_id").to_pylist() == list(kept)
    assert table.column("item_index").to_pylist() == list(kept.values())
    assert made.semantic_ids.metadata == {"codebook_size": CODEBOOK}
    codes = made.semantic_ids.table().to_pydict()
    assert codes["text_codes"] == [[0, {3: 1, 7: 3}.get(i, 2 * i)] for i in range(ITEMS)]
    assert codes["image_codes"] == [[i, 9] for i in range(ITEMS)]
    assert codes["text_moved"] == [1 if i in (3, 7) else -1 for i in range(ITEMS)]
    assert made.latents.table(["text_codes"]).to_pydict()["text_codes"][7] == [0, 0]
    assert made.facts["moved"] == {"text": 2, "image": 0}
    shared = published.write(data, tmp_path, shared_codes=True)
    codes = shared.semantic_ids.table().to_pydict()
    assert codes["text_codes"][7] == codes["text_codes"][0] == [0, 0]
    assert set(codes["text_moved"]) == {-1}
    assert shared.facts["distinct_codes"] == {"text": ITEMS - 2, "image": ITEMS}


@pytest.mark.parametrize("only", ["text", "image"])
def test_one_modality_alone_is_as_if_the_other_had_no_codes(data, tmp_path, only):
    both = published.write(data, tmp_path / "both").semantic_ids.table()
    made = published.write(data, tmp_path / "one", only=only)
    other = {"text": "image", "image": "text"}[only]
    codes = made.semantic_ids.table()
    assert codes.column(f"{only}_codes") == both.column(f"{only}_codes")
    assert codes.column(f"{other}_codes").null_count == ITEMS
    assert made.latents.table().column(f"{other}_codes").null_count == ITEMS
    assert list(made.facts["distinct_codes"]) == [only]


def test_the_result_contains_settings_figures_and_the_curve(monkeypatch, data, tmp_path):
    more = ["--epochs", "2", "--tasks", "seq_text_text,seq_image_image"]
    given = options(monkeypatch, data, tmp_path, *more)
    result = instruments.run(given)
    assert result["train_config"]["tasks"] == ("seq_text_text", "seq_image_image")
    assert result["train_config"]["d_model"] == 8
    assert result["train_config"]["epochs"] == 2
    assert result["test"]["users"] == result["test_seen_kept"]["users"] == USERS
    for system in ("popular", "text", "image", "text_wide", "image_wide", "fused"):
        assert 0 <= result["test"][f"{system}_ndcg_10"] <= result["test"][f"{system}_hr_10"] <= 1
    assert [row["epoch"] for row in result["curve"]] == [1, 2, 3]
    seconds = [
        row["seconds"] for row in result["curve"] if row["validation_ndcg_at_10"] is not None
    ]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= result["train_seconds"]
    trained = load_recommender(tmp_path / "recommender")
    assert trained.text_codes_NL[7].tolist() == [0, 3]

    again = instruments.run(given)
    timed = {"rss_mb", "train_seconds", "evaluate_seconds"}
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in result.items() if k not in timed
    }


def test_a_plan_fills_the_time_and_is_kept(monkeypatch, data, tmp_path):
    config = replace(train.Settings(), tasks=("seq_text_text", "seq_text_image"), decay=0.5)
    made = published.write(data, tmp_path / "data")
    trial = epoch_plan.Trial(rows_per_second=10.0, validation_seconds=4.0)
    monkeypatch.setattr(epoch_plan, "_trial", lambda *_: trial)
    rows = (ITEMS - 3) + (USERS - 1) * 3  # one source: both tasks read it
    seconds = 15 * rows / 10 + (5 + 3) * 4  # 10 epochs and 5 of decay, validated every other one
    minutes = seconds / 60 / epoch_plan.PLANNED * 1.001
    arguments = (tmp_path, minutes, made, config, train.Execution())
    found = epoch_plan.plan(*arguments)
    assert (found["epochs"], found["seconds"]) == (10, pytest.approx(seconds))
    monkeypatch.setattr(epoch_plan, "_trial", lambda *_: trial._replace(rows_per_second=1.0))
    assert epoch_plan.plan(*arguments) == found
    assert epoch_plan.plan(tmp_path, 1e-9, *arguments[2:])["epochs"] == 1


def test_a_trial_measures_the_stage_itself(monkeypatch, data, tmp_path):
    given = options(monkeypatch, data, tmp_path, "--minutes", "0.0001", "--epochs", "3")
    result = instruments.run(given)
    assert result["train_config"]["epochs"] == 1
    assert result["plan"]["epoch_seconds"] > 0
    assert result["plan"]["rows_per_second"] > 0


def test_a_training_cut_short_can_be_evaluated_and_resumed(monkeypatch, caplog, data, tmp_path):
    caplog.set_level("INFO", log.name)
    # at this rate the third epoch is no better, so both runs test the weights of the same epoch
    command = ["--epochs", "2", "--tasks", "seq_text_text", "--checkpoint-seconds", "0"]
    command += ["--set", *SMALL, "embedding_rate=1", "learning_rate=0.001"]

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    with pytest.raises(UserError, match="no checkpoint"):
        instruments.run(options(monkeypatch, data, tmp_path, *command, "--best-so-far"))
    with monkeypatch.context() as broken, pytest.raises(OSError, match="no space"):
        broken.setattr(stage, "save_recommender", full_disk)
        instruments.run(options(monkeypatch, data, tmp_path, *command))
    so_far = instruments.run(options(monkeypatch, data, tmp_path, *command, "--best-so-far"))
    steps = caplog.text.count("resumed")
    done = instruments.run(options(monkeypatch, data, tmp_path, *command))
    assert caplog.text.count("resumed") == steps + 1
    assert (so_far["finished"], done["finished"]) == (False, True)
    assert so_far["train"]["best_epoch"] == done["train"]["best_epoch"]
    assert so_far["test"] == done["test"]
    assert [row["epoch"] for row in so_far["curve"]] == [1, 2]  # saved before the third's end
    assert so_far["curve"] == done["curve"][:2]


def test_a_misspelt_setting_is_rejected(monkeypatch, data, tmp_path):
    given = options(monkeypatch, data, tmp_path, "--set", "learning_rat=1")
    with pytest.raises(UserError, match=r"no setting learning_rat\. Did you mean learning_rate"):
        instruments.run(given)
