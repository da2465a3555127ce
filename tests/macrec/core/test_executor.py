"""What every stage shares: fingerprints, reuse, commit, exit codes, the protocol of KFP."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.stages import EVALUATE
from macrec.core import executor, fingerprint, settings, stage_command
from macrec.core.artifact import Artifact, DatasetOutput, HtmlOutput, Source
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import UserError
from macrec.core.processes import Processes
from macrec.core.progress import Progress
from macrec.core.store import ArtifactStore
from macrec.core.task_note import TASK


def run_toy(toy, numbers_path: Path, out: Path, store: Path | None = None, **settings):
    config = {k: v for k, v in settings.items() if k in ("times", "mode", "weights")}
    stage = replace(toy.STAGE, **settings.get("stage", {}))
    return executor.execute(
        stage,
        toy.Settings(**config),
        toy.Inputs(numbers=Artifact.open(numbers_path), extra=settings.get("extra")),
        toy.Outputs(repeated=DatasetOutput(out / "repeated"), page=HtmlOutput(out / "page")),
        toy.Execution(batch=settings.get("batch", 10)),
        store=ArtifactStore(str(store)) if store else None,
        salt=settings.get("salt", ""),
    )


run = run_toy


def test_a_finished_stage_is_handed_over(toy_stage, numbers, tmp_path):
    first = run(toy_stage, numbers(1, 2), tmp_path / "a", tmp_path / "store")
    again = run(toy_stage, numbers(1, 2, name="moved"), tmp_path / "b", tmp_path / "store")
    assert (first.reused, again.reused, toy_stage.code.calls) == (False, True, 1)
    assert again.metrics == first.metrics == {"rows": 2.0}
    rows = Artifact.open(tmp_path / "b" / "repeated").table()["value"].to_pylist()
    assert rows == [1, 2, 1, 2]
    assert (tmp_path / "b" / "page").read_text() == "<p>done</p>"
    assert Artifact.open(tmp_path / "b" / "repeated").manifest["stage"] == "toy"


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        ({"times": 3}, False),
        ({"weights": (0.5, 2.0)}, False),
        ({"salt": "again"}, False),
        ({"batch": 1}, True),
    ],
)
def test_config_makes_the_fingerprint_and_execution_does_not(
    toy_stage, numbers, tmp_path, change, reused
):
    run(toy_stage, numbers(1, 2), tmp_path / "a", tmp_path / "store")
    changed = run(toy_stage, numbers(1, 2), tmp_path / "b", tmp_path / "store", **change)
    assert changed.reused is reused


def test_other_data_and_other_code_are_computed(toy_stage, numbers, tmp_path):
    run(toy_stage, numbers(1, 2), tmp_path / "a", tmp_path / "store")
    assert not run(toy_stage, numbers(1, 3), tmp_path / "b", tmp_path / "store").reused
    source = Path(toy_stage.code.__file__)
    source.write_text(source.read_text() + "\nchanged = True\n")
    assert not run(toy_stage, numbers(1, 2), tmp_path / "c", tmp_path / "store").reused


def test_the_code_version_follows_imports(toy_stage):
    before = fingerprint.code_version(toy_stage.STAGE)
    source = Path(toy_stage.code.__file__)
    helper = source.with_name("helper.py")
    helper.write_text("A = 1\n")
    importing = "\ndef lazy():\n    from components.toy import helper\n    return helper\n"
    source.write_text(source.read_text() + importing)
    imported = fingerprint.code_version(toy_stage.STAGE)
    helper.write_text("A = 2\n")
    assert len({before, imported, fingerprint.code_version(toy_stage.STAGE)}) == 3


def test_the_templates_of_a_package_are_part_of_its_code(toy_stage):
    before = fingerprint.code_version(toy_stage.STAGE)
    folder = Path(toy_stage.code.__file__).with_name("templates")
    folder.mkdir()
    (folder / "page.html").write_text("<p>{{ a }}</p>")
    first = fingerprint.code_version(toy_stage.STAGE)
    (folder / "page.html").write_text("<b>{{ a }}</b>")
    assert len({before, first, fingerprint.code_version(toy_stage.STAGE)}) == 3


def test_the_templates_of_the_report_are_part_of_evaluate():
    names = fingerprint.sources(f"{EVALUATE.package}.stage")
    assert "macrec.report/report.html.jinja" in names and "macrec.report/style.css" in names


def test_comments_docstrings_and_layout_are_no_part_of_the_code_version(toy_stage):
    before = fingerprint.code_version(toy_stage.STAGE)
    for source in (Path(toy_stage.code.__file__), Path(toy_stage.__file__)):
        text = source.read_text()
        other = re.sub(r'"""(?=[A-Z])', '"""Other words. ', text)
        source.write_text(other.replace("\n\n", "\n\n# why\n"))
        assert text != source.read_text()
    assert fingerprint.code_version(toy_stage.STAGE) == before


def test_a_damaged_store_is_mended(toy_stage, numbers, tmp_path):
    store = tmp_path / "store"
    run(toy_stage, numbers(1, 2), tmp_path / "a", store)
    for blob in (store / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o644)
            blob.write_bytes(b"damaged")
    again = run(toy_stage, numbers(1, 2, name="n2"), tmp_path / "b", store)
    assert not again.reused
    assert Artifact.open(tmp_path / "b" / "repeated").verify().rows == 4
    assert run(toy_stage, numbers(1, 2, name="n3"), tmp_path / "c", store).reused


def test_stored_files_are_shared_not_copied(toy_stage, numbers, tmp_path):
    run(toy_stage, numbers(1, 2), tmp_path / "a", tmp_path / "store")
    run(toy_stage, numbers(1, 2), tmp_path / "b", tmp_path / "store")
    parts = [tmp_path / x / "repeated" / "part-00000.parquet" for x in "ab"]
    assert parts[0].stat().st_ino == parts[1].stat().st_ino
    assert not os.access(parts[0], os.W_OK) or os.geteuid() == 0
    assert parts[0].stat().st_mode & 0o222 == 0


@pytest.mark.case(8)
def test_two_runs_at_once_give_one_result(toy_stage, numbers, tmp_path, monkeypatch):
    """The slower run meets the other's record at its commit and takes it over."""
    store = tmp_path / "store"
    original = toy_stage.code.run

    def overtaken(*arguments):
        monkeypatch.setattr(toy_stage.code, "run", original)
        run(toy_stage, numbers(1, 2, name="n2"), tmp_path / "quick", store)
        return {**original(*arguments), "rows": 99.0}  # as if it were not deterministic

    monkeypatch.setattr(toy_stage.code, "run", overtaken)
    slow = run(toy_stage, numbers(1, 2), tmp_path / "slow", store)
    assert slow.metrics == {"rows": 2.0}
    digests = {Artifact.open(tmp_path / x / "repeated").digest for x in ("quick", "slow")}
    assert len(digests) == 1


@pytest.mark.case(36)
@pytest.mark.parametrize("mode", ["fail", "user_error", "nan"])
def test_a_failed_stage_leaves_nothing(toy_stage, numbers, tmp_path, mode):
    with pytest.raises((RuntimeError, UserError)):
        run(toy_stage, numbers(1), tmp_path / "a", tmp_path / "store", mode=mode)
    with pytest.raises(UserError, match="not a finished artifact"):
        Artifact.open(tmp_path / "a" / "repeated")
    assert not list((tmp_path / "store").rglob("*.json"))


@pytest.mark.case(12)
def test_checkpoints_lie_in_the_store_until_the_result_does(
    toy_stage, numbers, tmp_path, monkeypatch
):
    """A resumed attempt finds them under the fingerprint; another configuration does not."""
    store, found, original = tmp_path / "store", [], toy_stage.code.run

    def resumable(job):
        before = Checkpoints(job.checkpoint_uri).latest()
        found.append(before and before.step)
        Checkpoints(job.checkpoint_uri).save(len(found), {})
        if len(found) < 3:
            raise RuntimeError("cut short")
        return original(job)

    def run(*arguments, **settings):
        return run_toy(*arguments, stage={"resumable": True}, **settings)

    monkeypatch.setattr(toy_stage.code, "run", resumable)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="cut short"):
            run(toy_stage, numbers(1), tmp_path / "a", store)
    run(toy_stage, numbers(1), tmp_path / "b", store, times=3)
    assert found == [None, 1, None] and (store / "checkpoints" / "toy").is_dir()
    done = run(toy_stage, numbers(1), tmp_path / "a", store)
    assert found == [None, 1, None, 2]
    left = store / "checkpoints" / "toy" / done.fingerprint
    assert not left.exists()
    Checkpoints(str(left)).save(9, {})  # by a run that was killed after its commit
    assert run(toy_stage, numbers(1), tmp_path / "a", store).reused and not left.exists()
    run(toy_stage, numbers(1), tmp_path / "a")  # without a store
    assert found[-1] is None


def test_only_a_stage_that_says_so_is_shared_by_processes(
    toy_stage, numbers, tmp_path, monkeypatch
):
    monkeypatch.setattr(executor, "join_processes", lambda: Processes(0, 2))
    with pytest.raises(UserError, match="toy: cannot run in 2 processes"):
        run(toy_stage, numbers(1), tmp_path / "a")
    shared = {"distributed": True}
    for reused in (True, False):
        one = Processes(1, 2)
        monkeypatch.setattr(one, "agree", lambda _, told=reused: told)
        monkeypatch.setattr(executor, "join_processes", lambda process=one: process)
        out = tmp_path / f"{reused}"
        (out / "repeated").mkdir(parents=True)  # as process 0 has made it
        before = toy_stage.code.calls
        done = run(toy_stage, numbers(1), out, tmp_path / "store", stage=shared)
        assert (done.metrics, done.reused) == ({}, reused)
        assert toy_stage.code.calls - before == (not reused)
        assert not (out / "repeated" / "manifest.json").exists()
    assert not (tmp_path / "store").exists()


def executor_input(numbers_path: Path, root: Path, values=None, **chosen) -> str:
    def output(name):
        return {"artifacts": [{"name": name, "uri": str(root / name)}]}

    names = ["repeated", "page", "metrics"]
    call = {
        "inputs": {
            "parameterValues": {"settings": chosen, **(values or {})},
            "artifacts": {"numbers": {"artifacts": [{"name": "n", "uri": str(numbers_path)}]}},
        },
        "outputs": {
            "artifacts": {n: output(n) for n in names},
            "outputFile": str(root / "executor_output.json"),
        },
    }
    return json.dumps(call)


def test_the_protocol_of_kfp(toy_stage, numbers, tmp_path):
    # KFP states every number as a float
    call = executor_input(numbers(5), tmp_path / "o", times=3.0, weights=[1.0, 2.0])
    with pytest.raises(SystemExit) as ended:
        stage_command.main(toy_stage.STAGE, ["--executor-input", call])
    assert ended.value.code == 0
    written = json.loads((tmp_path / "o" / "executor_output.json").read_text())["artifacts"]
    repeated = written["repeated"]["artifacts"][0]
    assert repeated["uri"] == str(tmp_path / "o" / "repeated")
    assert repeated["metadata"]["rows"] == 3
    assert repeated["metadata"]["digest"] == Artifact.open(tmp_path / "o" / "repeated").digest
    assert written["metrics"]["artifacts"][0]["metadata"] == {"rows": 1.0}


def test_a_new_force_computes_again_and_an_old_one_does_not(toy_stage, numbers, tmp_path):
    common = {"store": str(tmp_path / "store"), "cache_salt": "s"}
    reused: list[bool] = []
    for n, force in enumerate(["", "a", "a", "b", ""]):
        root = tmp_path / f"o{n}"
        call = executor_input(numbers(5), root, common, **({"force": force} if force else {}))
        with pytest.raises(SystemExit):
            stage_command.main(toy_stage.STAGE, ["--executor-input", call])
        noted = json.loads((root / TASK).read_text())
        assert noted["code"] == 0 and noted["started"] <= noted["ended"]
        reused.append(noted["reused"])
    assert reused == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("mode", "code", "error"),
    [
        ("user_error", 2, "numbers: 1 of 2 is odd. Remove it."),
        ("fail", 1, "RuntimeError: half way"),
        ("terminated", 143, ""),
    ],
)
def test_how_a_task_ended_is_written_down(toy_stage, numbers, tmp_path, mode, code, error):
    call = executor_input(numbers(5), tmp_path / "o", mode=mode)
    with pytest.raises((SystemExit, RuntimeError)):
        stage_command.main(toy_stage.STAGE, ["--executor-input", call])
    noted = json.loads((tmp_path / "o" / TASK).read_text())
    assert (noted["stage"], noted["code"], noted["error"]) == ("toy", code, error)


def test_artifact_uris_are_where_the_launcher_mounts_them():
    assert stage_command.local_path("gs://bucket/a/b") == "/gcs/bucket/a/b"
    assert stage_command.local_path("minio://bucket/a") == "/minio/bucket/a"
    assert stage_command.local_path("s3://bucket/a") == "/s3/bucket/a"
    assert stage_command.local_path("/tmp/a") == "/tmp/a"


def test_flags_and_exit_codes(toy_stage, numbers, tmp_path):
    """As a process: a user error exits with 2 and no traceback, a fault keeps its traceback."""
    base = ["--numbers", str(numbers(5)), "--out", str(tmp_path / "o")]
    toy_root = str(Path(toy_stage.__file__).parent.parent)
    program = (
        f"import components; components.__path__.append({toy_root!r});"
        "from components.toy.spec import STAGE; from macrec.core import stage_command; "
        "import sys; stage_command.main(STAGE, sys.argv[1:])"
    )

    def call(*flags):
        command = [sys.executable, "-c", program, *base, *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good, user, fault = call(), call("--set", "mode=user_error"), call("--set", "mode=fail")
    assert (good.returncode, user.returncode, fault.returncode) == (0, 2, 1)
    assert "error: numbers: 1 of 2 is odd" in user.stderr and "Traceback" not in user.stderr
    assert "Traceback" in fault.stderr
    ended = call("--set", "mode=terminated")
    assert ended.returncode == 143 and "Traceback" not in ended.stderr
    wrong = call("--set", "times=many")
    assert wrong.returncode == 2 and "toy: times='many'" in wrong.stderr
    unknown = call("--set", "time=2")
    assert unknown.returncode == 2 and "time. Did you mean times?" in unknown.stderr
    assert call("--set", "times").returncode == 2


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("times", "3", 3),
        ("times", 3.0, 3),
        ("weights", "0.5,1", (0.5, 1.0)),
        ("weights", "[0.5, 1]", (0.5, 1.0)),
        ("weights", "", ()),
        ("mode", "copy", "copy"),
    ],
)
def test_values_are_read(toy_stage, name, given, value):
    parameter = next(p for p in settings.fields(toy_stage.Settings) if p.name == name)
    assert settings.parse(parameter, given) == value


@pytest.mark.parametrize(("name", "given"), [("times", "2.5"), ("mode", "other"), ("weights", "a")])
def test_wrong_values_are_refused(toy_stage, name, given):
    parameter = next(p for p in settings.fields(toy_stage.Settings) if p.name == name)
    with pytest.raises(UserError, match=name):
        settings.parse(parameter, given)


def test_progress_is_rate_limited(caplog, monkeypatch):
    monkeypatch.setenv("MACREC_PROGRESS_SECONDS", "30")
    now = 0.0
    progress = Progress("embed", 100, "items", clock=lambda: now)
    with caplog.at_level("INFO", "macrec"), progress:
        for _ in range(100):
            now += 1.0
            progress.advance(1)
    lines = [r.message for r in caplog.records]
    assert len(lines) == 4  # at 30, 60, 90 and the end
    assert lines[0] == "embed: 30/100 items, 1.0/s, 70 s left"


def test_inputs_that_a_configuration_does_not_read_are_no_part_of_the_identity(
    toy_stage, numbers, tmp_path
):
    def used(settings, inputs):
        return inputs if settings.times == 3 else replace(inputs, extra=None)

    (tmp_path / "extra.txt").write_text("more")
    extra = Source(str(tmp_path / "extra.txt"))
    for times, same in ((2, True), (3, False)):
        plain, more = (
            run(
                toy_stage,
                numbers(1),
                tmp_path / "out",
                times=times,
                extra=given,
                stage={"used_inputs": used},
            ).fingerprint
            for given in (None, extra)
        )
        assert (plain == more) is same
