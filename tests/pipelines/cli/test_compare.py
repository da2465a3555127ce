"""`macrec compare` on output folders, as a user calls it."""

import json
import re

import pytest

from pipelines.cli.main import main
from pipelines.local.id_version import VERSION
from tests.artifacts import predictions

USERS = 40


def rows(hits, system="fused", targets=7):
    """Lists of one item, which is the target of the users in `hits`."""
    return [(f"u{k}", system, targets, [targets if k in hits else 1], [-1.0]) for k in range(USERS)]


def run_folder(path, found):
    """An output folder with the predictions somewhere below."""
    predictions(path / "runs" / "one" / "predictions", found)
    artifacts = {"predictions": "runs/one/predictions"}
    (path / VERSION).write_text(json.dumps({"artifacts": artifacts, "settings": {}, "store": ""}))
    return path


@pytest.fixture
def runs(tmp_path):
    a = run_folder(tmp_path / "a", rows(range(4)) + rows(range(9), "text"))
    return a, run_folder(tmp_path / "b", rows(range(20)))


def compare(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    return ended.value.code


def test_the_table_has_every_metric(runs, capsys):
    assert compare(*runs) == 0
    shown = capsys.readouterr().out
    found = dict(re.findall(r"^((?:HR|NDCG|MRR)@\d+) +(.*)$", shown, re.MULTILINE))
    assert len(found) == 12
    a, b, difference, low, _, high, p = found["NDCG@10"].split()
    assert (a, b, difference) == ("0.1000", "0.5000", "+0.4000")
    assert 0.2 < float(low) < 0.4 < float(high) < 0.6 and float(p) < 0.001
    assert "40 test users" in shown and "another training seed" in shown
    assert f"A: fused, {runs[0]}" in shown and f"B: fused, {runs[1]}" in shown


def test_json_of_one_metric_and_several_runs_of_a_side(runs, capsys):
    a, b = runs
    assert compare(f"{a},{b}", b / "runs/one/predictions", "--json", "--metric", "hr_5") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["users"] == USERS and list(told["metrics"]) == ["hr_5"]
    assert told["metrics"]["hr_5"]["a_runs"] == [0.1, 0.5]
    assert told["metrics"]["hr_5"]["difference"] == pytest.approx(0.5 - 0.3)
    assert len(told["a"]["predictions"]) == 2


def test_two_systems_of_one_run(runs, capsys):
    assert compare(runs[0], runs[0], "--system", "text,fused", "--json") == 0
    hr = json.loads(capsys.readouterr().out)["metrics"]["hr_10"]
    assert (hr["a"], hr["b"]) == (pytest.approx(9 / USERS), pytest.approx(4 / USERS))


@pytest.mark.parametrize(
    ("other", "flags", "message"),
    [
        ("targets", [], "40 of 40 test users have another target"),
        ("b", ["--system", "image"], "There are those of fused, text"),
        ("b", ["--metric", "hr_7"], "no such metric. There are hr_1"),
        ("absent", [], "no such folder"),
        ("empty", [], f"no {VERSION} here"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, tmp_path, caplog, other, flags, message):
    run_folder(tmp_path / "targets", rows(range(3), targets=8))
    (tmp_path / "empty").mkdir()
    assert compare(runs[0], tmp_path / other, *flags) == 2
    assert message in caplog.text
