"""`macrec rerun`: of a run on a cluster (a server that speaks KFP's REST API), and of one here."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from macrec.errors import UserError
from pipelines import rerun, run_record
from pipelines.dag import Dag
from pipelines.local import PIPELINE_YAML
from pipelines.rerun import Choice
from tests.kfp_server import Refused
from tests.pipelines.conftest import SMOKE

DATA = [
    *("--items", "gs://shop/items", "--interactions", "gs://shop/log"),
    *("--text-model", "gs://shop/model", "--store", "gs://shop/store"),
]
API = "/apis/v2beta1"


@pytest.fixture
def failed(kfp, here):
    """A run whose stage train has failed."""
    assert here("submit", *DATA, "--set", "quantizer_levels=3", "--run-name", "nightly").code == 0
    (run_id,) = kfp.runs
    kfp.finish(run_id, "FAILED", failed="train")
    kfp.clear()
    return run_id


def newest(kfp):
    return list(kfp.runs.values())[-1]


def forces(run):
    return {n: v for n, v in run.runtime_config.parameters.items() if n.endswith("_force")}


def test_a_failed_run_of_the_same_code_is_retried(kfp, here, failed):
    called = here("rerun", failed)
    assert called.code == 0, called.err
    assert f"POST {API}/runs/{failed}:retry" in kfp.requests
    assert list(kfp.runs) == [failed] and kfp.runs[failed].state == "RUNNING"
    assert "retried" in called.out and f"{kfp.url}/#/runs/details/{failed}" in called.out


def test_a_clone_may_be_asked_for(kfp, here, failed):
    assert here("rerun", failed, "--clone").code == 0
    assert len(kfp.runs) == 2 and not any(":retry" in r for r in kfp.requests)


def test_after_a_change_of_the_code_a_clone_takes_the_new_version(kfp, here, failed, tmp_path):
    package = tmp_path / "fixed.yaml"
    package.write_text(PIPELINE_YAML.read_text() + "\n# another image\n")
    called = here("rerun", failed, "--package", package)
    assert called.code == 0, called.err
    clone, old = newest(kfp), kfp.runs[failed]
    assert clone.run_id != failed and clone.display_name == "nightly again"
    assert clone.experiment_id == old.experiment_id
    assert clone.runtime_config.parameters == old.runtime_config.parameters
    version = kfp.versions[clone.pipeline_version_reference.pipeline_version_id]
    assert kfp.packages[version.display_name] == package.read_bytes()
    assert not any(":retry" in r for r in kfp.requests)


def test_after_a_change_of_a_setting_it_is_a_clone(kfp, here, failed):
    assert here("rerun", failed, "--set", "generator_epochs=1").code == 0
    parameters = newest(kfp).runtime_config.parameters
    assert parameters["generator_epochs"] == 1 and parameters["quantizer_levels"] == 3


def test_a_setting_that_is_the_same_is_no_change(kfp, here, failed):
    assert here("rerun", failed, "--set", "quantizer_levels=3").code == 0
    assert list(kfp.runs) == [failed]


def test_a_run_that_succeeded_is_cloned(kfp, here, failed):
    kfp.finish(failed)
    assert here("rerun", failed).code == 0
    assert len(kfp.runs) == 2 and not forces(newest(kfp))


def test_force_reaches_one_stage_and_from_all_that_follow(kfp, here, failed):
    assert here("rerun", failed, "--force", "quantize").code == 0
    first = forces(newest(kfp))
    assert set(first) == {"quantizer_force"} and first["quantizer_force"]
    assert here("rerun", failed, "--from", "train").code == 0
    assert set(forces(newest(kfp))) == {"generator_force", "evaluation_force", "recommend_force"}
    assert here("rerun", failed, "--force", "quantize").code == 0
    assert forces(newest(kfp)) != first, "a force is new each time"


def test_only_runs_a_part_of_the_dag_and_makes_no_version(kfp, here, failed):
    assert here("rerun", failed, "--only", "train").code == 0
    clone = newest(kfp)
    assert clone.pipeline_version_reference is None and len(kfp.versions) == 1
    tasks = clone.pipeline_spec["pipeline_spec"]["root"]["dag"]["tasks"]
    assert "train" in tasks and "evaluate" not in tasks and "quantize" in tasks
    assert not forces(clone), "train had not finished: its result is one for every later run"
    assert here("rerun", failed, "--only", "quantize").code == 0
    assert set(forces(newest(kfp))) == {"quantizer_force"}
    assert newest(kfp).display_name == "nightly again, only quantize"


def test_a_clone_of_a_part_is_of_the_whole_again(kfp, here, failed):
    here("rerun", failed, "--only", "train")
    part = newest(kfp).run_id
    kfp.finish(part)
    assert here("rerun", part).code == 0
    assert newest(kfp).pipeline_version_reference is not None


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_a_run_at_work_is_left_alone(kfp, here, failed, state):
    kfp.runs[failed].state = state
    called = here("rerun", failed, "--from", "train")
    assert called.code == 2 and "still at work" in called.err
    assert not kfp.asked("POST")


def test_a_run_of_another_pipeline(kfp, here, failed):
    kfp.pipelines[kfp.runs[failed].pipeline_version_reference.pipeline_id].display_name = "other"
    called = here("rerun", failed, "--from", "train")
    assert called.code == 2 and "'other'" in called.err
    assert len(kfp.runs) == 1


def test_no_such_stage_and_no_such_run(kfp, here, failed):
    called = here("rerun", failed, "--force", "trian")
    assert called.code == 2 and "there are prepare_data" in called.err
    assert here("rerun", failed, "--force", "snapshot_catalog").code == 2
    assert here("rerun", "no-such-run").code == 2
    assert len(kfp.runs) == 1


def test_a_retry_that_is_refused(kfp, here, failed):
    def refuses():
        raise Refused(400, "Workflow cannot be retried with node x in Running phase")

    kfp.faults[f"POST {API}/runs/.*:retry"] = refuses
    called = here("rerun", failed)
    assert called.code == 2 and "cannot be retried with node" in called.err


def test_two_choices_exclude_each_other(here, tmp_path):
    assert here("rerun", tmp_path, "--only", "train", "--force", "train").code == 2


def test_what_is_forced():
    dag = Dag(PIPELINE_YAML.read_text())
    assert rerun.forced(dag, Choice(), finished=True) == {}
    assert rerun.forced(dag, Choice("only", "train"), finished=False) == {}
    assert rerun.forced(dag, Choice("only", "embed-text"), True, "x") == {"text_force": "x"}
    with pytest.raises(UserError, match="no stage"):
        rerun.forced(dag, Choice("from", "absent"), True)


# A local run: a stage fails for a real cause, which is mended.


def states(called):
    words = [line.split() for line in called.out.splitlines()]
    return {w[0]: w[-1] for w in words if w and w[-1] in ("computed", "reused")}


def computed(called):
    return [stage for stage, state in states(called).items() if state == "computed"]


def record(out):
    return run_record.read(out)


def digests(run: Path):
    """The bytes of every artifact of a run's folder, by stage and name."""
    notes = ("task.json", "executor_output.json")
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in notes
    }


ABOVE_TRAIN = [
    "prepare_data",
    "embed_text",
    "embed_image",
    "embed_histories",
    "pseudo_label",
    "quantize",
    "resolve_collisions",
]


@pytest.mark.slow
def test_a_failed_stage_is_rerun_after_its_cause_is_mended(macrec, sample, tmp_path):
    out = tmp_path / "out"
    flags = ["--config", SMOKE, *sample.flags, "--set", "image_max_bad_images=0.05"]
    # The store cannot be read for this stage: a file stands where its records belong.
    blocked = out / "store" / "records" / "train"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    first = macrec("run", "--out", out, *flags)
    assert first.code == 1
    assert "train failed with exit code 1" in first.err and f"`macrec rerun {out}`" in first.err
    told = macrec("status", out, "--json")
    content = json.loads(told.out)
    by_stage = {s["stage"]: s for s in content["stages"]}
    assert content["state"] == "failed" and by_stage["evaluate"]["state"] == "not run"
    assert (
        "NotADirectoryError" in by_stage["train"]["error"] and "store" in by_stage["train"]["error"]
    )
    (before,) = (out / "runs").iterdir()
    upstream = digests(before)

    blocked.unlink()
    again = macrec("rerun", out)
    assert again.code == 0, again.err
    assert computed(again) == ["snapshot_catalog", "train", "evaluate", "recommend"]
    _, second = sorted((out / "runs").iterdir())
    after = digests(second)
    assert {n: d for n, d in after.items() if n in upstream} == upstream
    assert (out / "report.html").is_file()
    assert json.loads(macrec("status", out, "--json").out)["state"] == "succeeded"

    # Forced, quantize gives the same bytes, so nothing below is computed.
    forced = macrec("rerun", out, "--force", "quantize")
    assert forced.code == 0, forced.err
    assert computed(forced) == ["snapshot_catalog", "quantize"]
    assert "quantizer_force" in record(out).arguments
    # With another seed it gives other bytes, and what follows is computed.
    other = macrec("rerun", out, "--force", "quantize", "--set", "quantizer_seed=99")
    assert computed(other) == [
        "snapshot_catalog",
        "quantize",
        "resolve_collisions",
        "train",
        "evaluate",
        "recommend",
    ]


@pytest.mark.slow
def test_one_stage_alone(macrec, sample, tmp_path):
    out, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(sample.data, data)
    flags = ["--config", SMOKE, "--set", "image_max_bad_images=0.05"]
    flags += [str(f).replace(str(sample.data), str(data)) for f in sample.flags]
    blocked = out / "store" / "records" / "pseudo_label"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    assert macrec("run", "--out", out, *flags).code == 1
    (main,) = (out / "runs").iterdir()

    early = macrec("rerun", out, "--only", "quantize")
    assert early.code == 2
    assert "pseudo_label has not finished in this run" in early.err
    blocked.unlink()
    alone = macrec("rerun", out, "--only", "pseudo_label")
    assert alone.code == 0, alone.err
    folder = Path(alone.out.strip().rpartition(": ")[2])
    assert (folder / "pseudo_labels" / "manifest.json").is_file()
    assert [p.name for p in folder.parent.iterdir()] == ["pseudo-label"]
    assert not record(out).arguments.get("label_force"), "it had not finished"
    told = json.loads(macrec("status", out, "--json").out)
    assert told["state"] == "unfinished"
    states_told = {s["stage"]: s["state"] for s in told["stages"]}
    assert states_told["pseudo_label"] == "computed" and states_told["quantize"] == "not run"

    # Its data are those of the run's snapshot, or there is no --only.
    (data / "items.parquet").write_bytes(b"other")
    changed = macrec("rerun", out, "--only", "prepare_data")
    assert changed.code == 2 and "items.parquet changed since" in changed.err

    # A stage that had finished is computed anew, and what was made from it no longer counts.
    embedded = macrec("rerun", out, "--only", "embed_text")
    assert embedded.code == 0, embedded.err
    assert "embed_text: finished in" in embedded.err
    assert record(out).arguments["text_force"]
    told = json.loads(macrec("status", out, "--json").out)
    states_told = {s["stage"]: s["state"] for s in told["stages"]}
    assert states_told["pseudo_label"] == "not run" and states_told["embed_image"] == "computed"
    text = digests(Path(embedded.out.strip().rpartition(": ")[2]))
    assert text == digests(main / "embed-text")
