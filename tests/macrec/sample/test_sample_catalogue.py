"""The sample has the answer it claims: both modalities are needed, and enough."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from macrec.core.errors import UserError
from macrec.sample.sample_catalogue import KINDS, make_sample
from macrec.sample.sample_pictures import DRAWINGS, SIDE, draw_instrument
from macrec.sample.sample_texts import BRANDS, describe


class Sample(NamedTuple):
    folder: Path
    brands: np.ndarray  # [N] place of each item's brand
    kinds: np.ndarray  # [N]
    histories: list[list[int]]  # item places, by user, in the order of time


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder)
    answers = pq.read_table(folder / "answers.parquet").to_pydict()
    place = {name: index for index, name in enumerate(answers["item_id"])}
    log = pq.read_table(folder / "interactions.parquet").to_pydict()
    histories: dict[str, list[int]] = {}
    order = np.argsort(log["timestamp"], kind="stable")
    for row in order:
        histories.setdefault(log["user_id"][row], []).append(place[log["item_id"][row]])
    return Sample(
        folder=folder,
        brands=np.unique(answers["brand"], return_inverse=True)[1],
        kinds=np.unique(answers["kind"], return_inverse=True)[1],
        histories=list(histories.values()),
    )


def hit_rate(scores: np.ndarray, history: list[int], target: int, k: int = 10) -> float:
    """The chance that `target` is among the k best unseen items, ties in random order."""
    scores = scores.copy()
    scores[history] = -np.inf
    above = int((scores > scores[target]).sum())
    level = int((scores == scores[target]).sum())
    return min(1.0, max(0.0, (k - above) / level))


def oracle(sample: Sample, votes: np.ndarray) -> float:
    """HR@10 on the last item when votes[i, j] is what a seen item i says for item j."""
    hits = []
    for items in sample.histories:
        *history, target = items
        recency = 0.8 ** np.arange(len(history))[::-1]
        hits.append(hit_rate(recency @ votes[history], history, target))
    return float(np.mean(hits))


def test_both_modalities_are_needed_and_enough(sample: Sample) -> None:
    same_brand = (sample.brands[:, None] == sample.brands[None]).astype(float)
    same_kind = (sample.kinds[:, None] == sample.kinds[None]).astype(float)
    brand = oracle(sample, same_brand)
    kind = oracle(sample, same_kind)
    both = oracle(sample, same_brand + same_kind)
    most_popular = oracle(sample, np.tile(popularity(sample), (len(sample.brands), 1)))
    assert both > 0.85
    assert 0.2 < brand < 0.35  # about ten places for the 37 items of a brand
    assert 0.2 < kind < 0.35
    assert both - max(brand, kind) > 0.55
    assert most_popular < 0.1


def test_counting_what_goes_together_is_no_way_around(sample: Sample) -> None:
    count = len(sample.brands)
    together = np.zeros((count, count))
    for items in sample.histories:
        known = items[:-2]
        for late, item in enumerate(known):
            for early in range(max(0, late - 3), late):
                together[known[early], item] += 1
                together[item, known[early]] += 1
    seen = popularity(sample) + 1
    neighbours = oracle(sample, together / np.sqrt(np.outer(seen, seen)))
    assert 0.2 < neighbours < 0.6  # a signal, far below the 0.9 of who knows the content


def popularity(sample: Sample) -> np.ndarray:
    seen = Counter(item for items in sample.histories for item in items[:-2])
    return np.array([seen[item] for item in range(len(sample.brands))], float)


def test_five_core_keeps_nearly_everything(sample: Sample) -> None:
    lengths = Counter(len(items) for items in sample.histories)
    assert min(lengths) >= 5 and max(lengths) <= 21
    assert lengths[5] > 100 and sum(lengths[n] for n in lengths if n >= 17) > 30
    uses = Counter(item for items in sample.histories for item in items)
    assert sum(uses[item] < 5 for item in range(300)) <= 3
    assert all(len(set(items)) == len(items) for items in sample.histories)


def test_counts_are_those_of_the_summary(sample: Sample) -> None:
    summary = json.loads((sample.folder / "sample.json").read_text())
    items = pq.read_table(sample.folder / "items.parquet").to_pydict()
    no_picture = [
        name for name, image in zip(items["item_id"], items["image"], strict=True) if not image
    ]
    broken = []
    for name, image in zip(items["item_id"], items["image"], strict=True):
        try:
            if image:
                with Image.open(sample.folder / "images" / image) as picture:
                    picture.load()
        except OSError:
            broken.append(name)
    assert summary["seed"] == 7
    assert (summary["items"], summary["users"]) == (300, 600) == (len(items["title"]), 600)
    assert summary["interactions"] == sum(len(items) for items in sample.histories)
    assert summary["missing_pictures"] == no_picture and len(no_picture) == 6
    assert summary["broken_pictures"] == broken and len(broken) == 2
    assert 20 < summary["tied_timestamps"] < 0.1 * summary["interactions"]


def test_text_tells_the_brand_and_hides_the_kind(sample: Sample) -> None:
    items = pq.read_table(sample.folder / "items.parquet").to_pydict()
    answers = pq.read_table(sample.folder / "answers.parquet").to_pydict()
    texts = [f"{a}. {b}" for a, b in zip(items["title"], items["description"], strict=True)]
    assert all(brand in text for brand, text in zip(answers["brand"], texts, strict=True))
    assert len(set(items["title"])) == 300
    named = sum(kind in text.lower() for kind, text in zip(answers["kind"], texts, strict=True))
    assert 0 < named < 0.08 * 300
    wrong = [t for t in texts for k in KINDS if k in t.lower() and "of the year" not in t]
    assert wrong == []


def test_describe_is_deterministic_and_numbered() -> None:
    first = describe(BRANDS[0], "harp", 512, random.Random("a"))
    assert first == describe(BRANDS[0], "harp", 512, random.Random("a"))
    assert first.title.startswith(BRANDS[0].name) and "512" in first.title


def test_every_kind_has_a_drawing_that_varies() -> None:
    assert set(DRAWINGS) == set(KINDS) and len(BRANDS) == len(KINDS)
    for kind in KINDS:
        pictures = [np.asarray(draw_instrument(kind, random.Random(n)), float) for n in range(2)]
        assert pictures[0].shape == (SIDE, SIDE, 3)
        assert np.abs(pictures[0] - pictures[1]).mean() > 5


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def test_same_seed_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from macrec.sample.sample_catalogue import make_sample; "
        "make_sample(pathlib.Path(sys.argv[1]), items=40, users=30, seed=3)"
    )
    for name in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": name}
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(command, check=True, env=environment)
    make_sample(tmp_path / "other", items=40, users=30, seed=4)
    assert digest(tmp_path / "1") == digest(tmp_path / "2") != digest(tmp_path / "other")


def test_a_smaller_sample_replaces_an_older_one_and_nothing_else(tmp_path: Path) -> None:
    make_sample(tmp_path / "s", items=40, users=30)
    make_sample(tmp_path / "s", items=20, users=10)
    make_sample(tmp_path / "fresh", items=20, users=10)
    assert digest(tmp_path / "s") == digest(tmp_path / "fresh")
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        make_sample(tmp_path / "s", items=20, users=10)
    assert (tmp_path / "s" / "items.parquet").is_file()


def test_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="19 items"):
        make_sample(tmp_path / "s", items=19)
