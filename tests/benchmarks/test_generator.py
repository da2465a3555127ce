"""The search over the generator's settings: what is run, what is kept, what is never run twice."""

import json

import pytest
import yaml

from benchmarks.quality import generator
from macrec.core.errors import UserError
from tests.small_generator import catalogue_codes, planted_histories, stage_inputs

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = {
    "train.d_model": 8, "train.d_ff": 16, "train.d_kv": 4, "train.layers": 1,
    "train.heads": 2, "train.item_pairs": 4, "train.epochs": 1, "quantize.levels": 3,
}  # fmt: skip


@pytest.fixture
def search(tmp_path, monkeypatch):
    inputs = stage_inputs(tmp_path / "in", planted_histories(12), catalogue_codes(3))
    given = {name: str(artifact.path) for name, artifact in vars(inputs).items()}
    (tmp_path / "version.json").write_text(json.dumps({"artifacts": given}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    variants = {"base": {}, "short": {"decay": 0}, "wrong": {"dropout": 2}}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(variants))
    results = tmp_path / "r.jsonl"

    def call(*more):
        files = ["--config", "c.yaml", "--variants", "v.yaml", "--results", "r.jsonl"]
        command = [str(tmp_path / f) if "." in f else f for f in files]
        monkeypatch.setattr("sys.argv", ["generator.py", str(tmp_path), *command, *more])
        generator.main()
        return [json.loads(line) for line in results.read_text().splitlines()]

    return call


def test_a_line_per_variant_and_seed_none_computed_twice(search):
    first = search("--only", "base", "short")
    assert [(line["variant"], line["seed"]) for line in first] == [("base", 0), ("short", 0)]
    base, short = first
    assert (base["epochs"], short["epochs"]) == (2, 1)  # the decay comes on top
    assert base["settings"] == {n.removeprefix("train."): v for n, v in CONFIG.items()
                                if n.startswith("train.")} | {"seed": 0}  # fmt: skip
    assert list(base["curve"]) == ["1", "2"]
    both = search("--only", "base", "--seeds", "2", "--set", "epochs=2")
    assert both[:2] == first
    assert (both[2]["seed"], both[2]["settings"]["epochs"]) == (1, "2")
    with pytest.raises(UserError, match="dropout=2"):
        search("--only", "wrong")


def test_the_table_compares_equal_seeds(search, capsys):
    lines = search("--only", "base", "short")
    search("--table")
    table = capsys.readouterr().out.splitlines()
    gain = lines[1]["validation_ndcg_10"] - lines[0]["validation_ndcg_10"]
    assert f"| {lines[1]['validation_ndcg_10']:.4f} | {gain:+.4f} |" in "\n".join(table)
