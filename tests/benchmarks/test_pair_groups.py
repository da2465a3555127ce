"""What the training part knows of a pair of items, by hand."""

import sys

import pytest

from benchmarks.quality import pair_groups
from macrec.core.artifact import Artifact
from macrec.data.split import read_split
from tests.artifacts import predictions
from tests.planted_sequences import prepared

HISTORIES = [  # of each the last two are no training
    *([[1, 2, 8, 9]] * 2),  # 2 follows 1 twice
    [3, 4, 0, 8, 9],  # 4 follows 3 once, 0 stands with both
    [7, 1, 2],  # -> followed twice
    [7, 3, 4],  # -> followed once
    [7, 3, 0],  # -> with the last
    [3, 7, 0],  # -> with another
    [7, 6, 5],  # -> never
]
SAID = ["followed twice", "followed once", "with the last", "with another", "never"]


@pytest.fixture
def data(tmp_path):
    return prepared(tmp_path / "data", HISTORIES, items=10)


def test_groups_of_the_pair_are_those_of_the_training_part(data):
    split = read_split(Artifact.open(data / "sequences"), 10)
    assert list(pair_groups.groups(split.training(), split.test(split.users_T)))[3:] == SAID


def test_the_table_has_every_user_once_and_seen_items_by_place(data, tmp_path, monkeypatch, capsys):
    rows = [  # what was seen, then the target
        (f"u{k:04d}", "toy", history[-1], [history[0], history[-1]], [2.0, 1.0])
        for k, history in enumerate(HISTORIES)
    ]
    predictions(tmp_path / "predictions", rows)
    given = ["pair_groups.py", str(data), f"toy={tmp_path / 'predictions'}"]
    monkeypatch.setattr(sys, "argv", given)
    pair_groups.main()
    told = capsys.readouterr().out.splitlines()
    by_name = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in told if "|" in line}
    assert by_name["all"][0].strip() == "8" and float(by_name["all"][2]) == 1.0
    assert sum(int(by_name[group][0]) for group in SAID) == 8
    assert [float(cell) for cell in by_name["test"]] == [1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 2]
    assert [float(cell) for cell in by_name["validation"]] == [0, 0, 0, 0, 1]
    assert [float(cell) for cell in by_name["toy"]][:3] == [1.0, 0.0, 0.0]
