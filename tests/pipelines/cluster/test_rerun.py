"""`macrec rerun`: of a run on a cluster (a server that speaks KFP's REST API), and of one here."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from components.run_form import flatten
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from pipelines.dag.compiled_dag import Dag
from pipelines.local import rerun_choice, run_record
from pipelines.local.pipeline_runner import PIPELINE_YAML
from pipelines.local.rerun_choice import Choice
from tests.kfp_server import Refused
from tests.pipelines.conftest import SMOKE

DATA = [
    *("--items", "gs://shop/items", "--interactions", "gs://shop/log"),
    *("--encoder-text", "gs://shop/model", "--store", "gs://shop/store"),
]
API = "/apis/v2beta1"


@pytest.fixture
def failed(kfp, here):
    """A run whose stage train has failed."""
    assert here("submit", *DATA, "--set", "quantize.levels=3", "--run-name", "nightly").code == 0
    (run_id,) = kfp.runs
    kfp.finish(run_id, "FAILED", failed="train")
    kfp.clear()
    return run_id


def newest(kfp):
    return list(kfp.runs.values())[-1]


def forces(run):
    values = flatten(run.runtime_config.parameters)
    return {n: v for n, v in values.items() if n.endswith(".force")}


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
    assert here("rerun", failed, "--set", "train.epochs=1").code == 0
    parameters = flatten(newest(kfp).runtime_config.parameters)
    assert parameters["train.epochs"] == 1 and parameters["quantize.levels"] == 3


def test_a_setting_that_is_the_same_is_no_change(kfp, here, failed):
    assert here("rerun", failed, "--set", "quantize.levels=3").code == 0
    assert list(kfp.runs) == [failed]


def test_a_run_that_succeeded_is_cloned(kfp, here, failed):
    kfp.finish(failed)
    assert here("rerun", failed).code == 0
    assert len(kfp.runs) == 2 and not forces(newest(kfp))


def test_force_reaches_one_stage_and_from_all_that_follow(kfp, here, failed):
    assert here("rerun", failed, "--force", "quantize").code == 0
    first = forces(newest(kfp))
    assert set(first) == {"quantize.force"} and first["quantize.force"]
    assert here("rerun", failed, "--from", "train").code == 0
    assert set(forces(newest(kfp))) == {"train.force", "evaluate.force", "recommend.force"}
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
    assert set(forces(newest(kfp))) == {"quantize.force"}
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
    assert called.code == 2 and "still running" in called.err
    assert not kfp.asked("POST")


def test_a_run_of_another_pipeline(kfp, here, failed):
    kfp.pipelines[kfp.runs[failed].pipeline_version_reference.pipeline_id].display_name = "other"
    called = here("rerun", failed, "--from", "train")
    assert called.code == 2 and "'other'" in called.err
    assert len(kfp.runs) == 1


def test_no_such_stage_and_no_such_run(kfp, here, failed):
    called = here("rerun", failed, "--force", "trian")
    assert called.code == 2 and "Stages: prepare_data" in called.err
    assert here("rerun", failed, "--force", "check_run").code == 2
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
    assert rerun_choice.force_settings(dag, Choice(), finished=True) == {}
    assert rerun_choice.force_settings(dag, Choice("only", "train"), finished=False) == {}
    assert rerun_choice.force_settings(dag, Choice("only", "embed-text"), True, "x") == {
        "embed_text.force": "x"
    }
    with pytest.raises(UserError, match="no stage"):
        rerun_choice.force_settings(dag, Choice("from", "absent"), True)


# A local run: a stage fails for a real cause, which is mended.

STORED = ("prepare_data", "embed_text", "embed_image", "embed_histories")
"""Stages whose results lie in the store from the start, to be quicker."""
ABOVE_TRAIN = [
    "embed_histories",
    "embed_image",
    "embed_text",
    "prepare_data",
    "pseudo_label",
    "quantize",
    "resolve_collisions",
    "check_run",
]


def states(macrec, out):
    """What `status` says of each stage, and of the run."""
    content = json.loads(macrec("status", out, "--json").out)
    return {s["stage"]: s["state"] for s in content["stages"]} | {"run": content["state"]}


def computed(called):
    """The stages that the closing table of a run names as computed."""
    words = [line.split() for line in called.out.splitlines()]
    return sorted(w[0] for w in words if w and w[-1] == "computed")


def digests(folder: Path):
    """The bytes of everything below a folder, but the notes of when it was made."""
    notes = ("task.json", "executor_output.json")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in notes
    }


def runs(out):
    return sorted((out / "runs").iterdir())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("rerun") / "out"


@pytest.fixture(scope="module")
def data(sample, out):
    shutil.copytree(sample.data, out.parent / "data")
    return out.parent / "data"


@pytest.fixture(scope="module")
def train_records(out):
    """Where the store keeps what train has made. A file in its place cannot be read."""
    return out / "store" / "records" / "train"


@pytest.fixture(scope="module")
def broken(macrec, sample, small_run, out, data, train_records):
    small_run.copy_results(out / "store", *STORED)
    train_records.write_text("")
    flags = [str(f).replace(str(sample.data), str(data)) for f in sample.flags]
    small = ["--config", SMOKE, "--set", "embed_image.max_bad_images=0.05"]
    return macrec("run", "--out", out, *small, *flags)


@pytest.fixture(scope="module")
def mended(macrec, broken, out, train_records):
    train_records.unlink()
    return macrec("rerun", out)


@pytest.fixture(scope="module")
def forced_again(macrec, mended, out):
    return macrec("rerun", out, "--force", "quantize")


@pytest.fixture(scope="module")
def other_bytes(macrec, forced_again, out, train_records):
    """Another seed, and the store is broken again, so that nothing is trained."""
    train_records.rename(train_records.with_name("away"))
    train_records.write_text("")
    return macrec("rerun", out, "--force", "quantize", "--set", "quantize.seed=99")


@pytest.mark.slow
def test_a_run_that_failed_says_how_and_how_to_go_on(macrec, broken, out):
    assert broken.code == 1
    assert "train failed with exit code 1" in broken.err and f"`macrec rerun {out}`" in broken.err
    told = macrec("status", out)
    assert "NotADirectoryError" in told.out and "records/train" in told.out
    assert states(macrec, out) == {
        **dict.fromkeys(ABOVE_TRAIN, "computed"),
        **dict.fromkeys(STORED, "reused"),
        "train": "failed",
        "evaluate": "not run",
        "recommend": "not run",
        "run": "failed",
    }


@pytest.mark.slow
def test_a_failed_stage_is_rerun_after_its_cause_is_mended(macrec, mended, out):
    assert mended.code == 0, mended.err
    assert computed(mended) == ["check_run", "evaluate", "recommend", "train"]
    first, second = (digests(run) for run in runs(out)[:2])
    above = [n for n in second if n.split("/")[0].replace("-", "_") in ABOVE_TRAIN]
    assert len(above) > 20 and {n: second[n] for n in above} == first
    assert (out / "report.html").is_file() and (out / "recommendations.parquet").is_file()


@pytest.mark.slow
def test_a_forced_stage_is_computed_and_what_follows_only_if_its_bytes_changed(
    macrec, forced_again, other_bytes, out
):
    assert forced_again.code == 0, forced_again.err
    assert computed(forced_again) == ["check_run", "quantize"]
    assert other_bytes.code == 1
    told = states(macrec, out)
    assert told.pop("run") == "failed"
    changed = [stage for stage, state in told.items() if state in ("computed", "failed")]
    assert changed == ["check_run", "quantize", "resolve_collisions", "train"]
    second, third, fourth = runs(out)[1:4]
    assert digests(second / "quantize").keys() == digests(third / "quantize").keys()
    latents = [Artifact.open(r / "quantize" / "latents").digest for r in (second, third, fourth)]
    assert latents[0] == latents[1] != latents[2]


@pytest.mark.slow
def test_one_stage_alone(macrec, other_bytes, out, data, train_records):
    early = macrec("rerun", out, "--only", "evaluate")
    assert early.code == 2 and "train has not finished in this run" in early.err
    train_records.unlink()
    alone = macrec("rerun", out, "--only", "train")
    assert alone.code == 0, alone.err
    folder = Path(alone.out.strip().rpartition(": ")[2])
    assert Artifact.open(folder / "recommender").verify()
    assert [p.name for p in folder.parent.iterdir()] == ["train"]
    told = states(macrec, out)
    assert (told["train"], told["evaluate"], told["run"]) == ("computed", "not run", "unfinished")
    forces = [n for n in flatten(run_record.read(out).arguments) if n.endswith(".force")]
    assert forces == ["quantize.force"], "train had not finished, so it was not forced"


@pytest.mark.slow
def test_one_stage_that_had_finished(macrec, other_bytes, out, data):
    """It is computed anew, and what was made from it does not count any more."""
    earlier = Artifact.open(runs(out)[3] / "embed-text" / "text_embeddings").digest
    alone = macrec("rerun", out, "--only", "embed-text")
    assert alone.code == 0, alone.err
    assert "embed_text: finished in" in alone.err, "it was not reused"
    assert flatten(run_record.read(out).arguments)["embed_text.force"]
    folder = Path(alone.out.strip().rpartition(": ")[2])
    assert Artifact.open(folder / "text_embeddings").digest == earlier
    told = states(macrec, out)
    assert told["pseudo_label"] == "not run" and told["embed_image"] == "reused"
    (data / "items.parquet").write_bytes(b"other")
    changed = macrec("rerun", out, "--only", "prepare_data")
    assert changed.code == 2 and "items.parquet changed since" in changed.err
