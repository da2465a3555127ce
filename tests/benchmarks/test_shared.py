"""The helpers of the benchmarks: settings from flags, result lines, the origin of a result."""

import json
import os

import numpy as np
import pytest

from benchmarks import shared
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.data import schema


def test_settings_of_a_flag_add_up_and_later_ones_win():
    parser = shared.make_parser("text")
    shared.add_settings_flag(parser, "train")
    shared.add_settings_flag(parser, "evaluate", "--set-evaluate")
    shared.add_threads_flag(parser)
    flags = ["--set", "a=1", "b=x=y", "--set", "a=2", "--set-evaluate", "c=3", "--threads", "2"]
    options = parser.parse_args(flags)
    assert shared.read_assignments(options.set) == {"a": "2", "b": "x=y"}
    assert shared.read_assignments(options.set_evaluate) == {"c": "3"} and options.threads == 2
    with pytest.raises(UserError, match="--set a: write NAME=VALUE"):
        shared.read_assignments(["a"])


def test_lines_are_appended_and_read(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    assert shared.read_lines(path) == []
    for value in (1, 2):
        shared.append_line(path, {"value": value})
    assert shared.read_lines(path) == [{"value": 1}, {"value": 2}]
    shared.print_line({"value": 3})
    assert json.loads(capsys.readouterr().out) == {"value": 3}
    shared.write_result(tmp_path / "new" / "r.json", {"value": 4})
    assert json.loads((tmp_path / "new" / "r.json").read_text()) == {"value": 4}
    with pytest.raises(ValueError, match="JSON"):
        shared.write_result(tmp_path / "r.json", {"value": float("nan")})


def test_the_origin_names_device_date_and_commit(monkeypatch):
    monkeypatch.setenv("MACREC_COMMIT", "abc")
    origin = shared.describe_origin(threads=3)
    assert (origin["commit"], origin["threads"]) == ("abc", 3)
    assert origin["device"].endswith("CPU") and len(origin["date"]) == len("2026-01-01")


def test_a_new_process_has_its_own_memory():
    assert shared.run_in_new_process(os.getpid) != os.getpid()


def test_a_dataset_is_committed_with_its_metadata(tmp_path):
    index = np.arange(3, dtype=np.int32)
    columns = [index, index, index]
    artifact = shared.write_dataset(tmp_path / "a", schema.PSEUDO_LABELS, columns, note="x")
    assert artifact.rows == 3 and artifact.metadata == {"note": "x"}
    with pytest.raises(UserError, match="no runs"):
        shared.latest_artifact(tmp_path, "quantize", "latents")
    run = tmp_path / "runs"
    for name in ("1", "2"):
        shared.write_dataset(run / name / "s" / "a", schema.PSEUDO_LABELS, columns, note=name)
    assert shared.latest_artifact(tmp_path, "s", "a").metadata == {"note": "2"}
    assert isinstance(shared.latest_artifact(tmp_path, "s", "a"), Artifact)
