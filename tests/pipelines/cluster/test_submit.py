"""`macrec submit` against a server that speaks KFP's REST API: what is sent, what is said."""

import socket
import time
from pathlib import Path

import pytest

from pipelines.cluster import submit
from pipelines.dag.compiled_dag import Dag
from pipelines.local.pipeline_runner import PIPELINE_YAML
from tests.kfp_server import Refused

DATA = ["--items", "gs://shop/items", "--interactions", "gs://shop/log"]
FLAGS = ["submit", *DATA, "--encoder-text", "hub:org/model@v1", "--store", "gs://shop/store"]
API = "/apis/v2beta1"


def only(things):
    (thing,) = things.values()
    return thing


def test_a_run_is_started_from_a_version_of_pipeline_yaml(kfp, here, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("quantize:\n  levels: 3\nevaluate:\n  fusion_weights: [0, 0.5]\n")
    called = here(*FLAGS, "--config", config, "--set", "quantize.epochs=7", "--run-name", "first")
    assert called.code == 0, called.err
    run, version = only(kfp.runs), only(kfp.versions)
    assert f"{kfp.url}/#/runs/details/{run.run_id}" in called.out
    assert run.display_name == "first"
    assert only(kfp.pipelines).display_name == "macrec"
    assert only(kfp.experiments).display_name == "macrec"
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert run.pipeline_spec is None
    assert kfp.packages[version.display_name] == PIPELINE_YAML.read_bytes()
    assert run.runtime_config.parameters == {
        "catalog_items": "gs://shop/items",
        "catalog_interactions": "gs://shop/log",
        "encoder_text": "hub:org/model@v1",
        "run_store": "gs://shop/store",
        "settings_quantize": {"levels": 3, "epochs": 7},
        "settings_evaluate": {"fusion_weights": [0.0, 0.5]},
    }


def test_equal_bytes_are_one_version_and_other_bytes_another(kfp, here, tmp_path):
    package = tmp_path / "mine.yaml"
    package.write_bytes(PIPELINE_YAML.read_bytes())
    for _ in range(2):
        assert here(*FLAGS, "--package", package).code == 0
    assert len(kfp.versions) == 1 and len(kfp.runs) == 2 and len(kfp.experiments) == 1
    package.write_text(package.read_text().replace("macrec-cpu", "registry/cpu@sha256:1"))
    assert here(*FLAGS, "--package", package).code == 0
    assert len(kfp.versions) == 2 and len(kfp.pipelines) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--items", "items.parquet"], "catalog_items=items.parquet"),
        (["--store", "runs/store"], "store=runs/store"),
        (["--encoder-text", ""], "no vectors to quantize"),
        (["--set", "quantizer_level=3"], "Did you mean quantize.levels"),
        (["--set", "quantize.levels=x"], "quantize.levels='x'"),
        (["--endpoint", "cluster:8888"], "begin with https://"),
        (["--endpoint", ""], "KFP_ENDPOINT"),
        (["--package", "README.md"], "no compiled pipeline"),
        (["--token-file", "absent"], "--token-file absent: cannot be read"),
        (["--timeout", "0"], "above 0"),
    ],
)
def test_what_is_wrong_here_is_said_before_anything_is_sent(kfp, here, flags, said):
    called = here(*FLAGS, *flags)
    assert called.code == 2
    assert said in called.err
    assert not kfp.requests


def test_paths_of_this_machine_are_told_with_the_remedy(kfp, here):
    called = here(*FLAGS, "--items", "a.parquet", "--images", "pictures")
    assert "2 paths that a cluster cannot read" in called.err
    assert "catalog_images=pictures" in called.err and "gs://" in called.err


def test_the_token_comes_from_a_file_or_the_environment(kfp, here, tmp_path, monkeypatch):
    kfp.token = "right-one"
    file = tmp_path / "token"
    file.write_text("right-one\n")
    assert here(*FLAGS, "--token-file", file).code == 0
    monkeypatch.setenv("KFP_TOKEN", "right-one")
    assert here(*FLAGS).code == 0
    monkeypatch.setenv("KFP_TOKEN", "stale-one")
    refused = here(*FLAGS)
    assert refused.code == 2
    assert "401" in refused.err and kfp.url in refused.err and "--token-file" in refused.err
    assert "stale-one" not in refused.err and "Traceback" not in refused.err
    assert len(kfp.runs) == 2


@pytest.mark.parametrize("content", ["", "two words"])
def test_a_token_file_that_holds_no_token(kfp, here, tmp_path, content):
    file = tmp_path / "token"
    file.write_text(content)
    called = here(*FLAGS, "--token-file", file)
    assert called.code == 2 and not kfp.requests


CALLS = [
    "GET /healthz",
    "GET /pipelines",
    "POST /pipelines",
    "GET /pipelines/.*/versions",
    "POST /pipelines/upload_version",
    "GET /experiments",
    "POST /experiments",
    "POST /runs",
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_fail_and_trying_again_helps(kfp, here, call):
    def fails():
        raise Refused(500, "InternalServerError: database is down")

    kfp.faults[call.replace("/", f"{API}/", 1)] = fails
    called = here(*FLAGS)
    assert called.code == 75
    assert "database is down" in called.err and kfp.url in called.err
    assert "Traceback" not in called.err
    assert not kfp.runs
    kfp.faults.clear()
    assert here(*FLAGS).code == 0
    assert len(kfp.versions) == len(kfp.runs) == 1


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, 2, "refused"),
        (403, 2, "namespace"),
        (404, 2, "not found"),
        (409, 2, "exists already"),
        (429, 75, "again"),
        (503, 75, "again"),
    ],
)
def test_a_refusal_says_what_to_do(kfp, here, status, code, said):
    def refuses():
        raise Refused(status, "the reason of the server")

    kfp.faults[f"POST {API}/runs"] = refuses
    called = here(*FLAGS)
    assert called.code == code
    assert said in called.err and "the reason of the server" in called.err
    assert str(status) in called.err and kfp.url in called.err


def test_an_address_without_an_api(kfp, here):
    called = here(*FLAGS, "--endpoint", f"{kfp.url}/wrong")
    assert called.code == 2
    assert "no KFP API is at this address" in called.err


def test_a_login_page_is_no_answer(kfp, here):
    def login():
        raise Refused(200, "", b"<html><title>Log in</title></html>")

    kfp.faults[f"GET {API}/healthz"] = login
    called = here(*FLAGS)
    assert called.code == 2
    assert "login page" in called.err


@pytest.mark.parametrize("call", ["GET /healthz", "POST /runs"])
def test_a_silent_server_is_left_in_time(kfp, here, call):
    kfp.faults[call.replace("/", f"{API}/", 1)] = lambda: time.sleep(2)
    called = here(*FLAGS, "--timeout", 0.3)
    assert called.code == 75
    assert called.seconds < 1.9
    assert "no response" in called.err and "check in the UI" in called.err


def test_nobody_listens(here, kfp):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    called = here(*FLAGS, "--endpoint", url)
    assert called.code == 75
    assert "no connection" in called.err and url in called.err


def test_no_such_host(here, kfp):
    called = here(*FLAGS, "--endpoint", "http://kfp.invalid")
    assert called.code == 2
    assert "no such host" in called.err


def test_several_users_have_namespaces(kfp, here):
    kfp.multi_user = True
    called = here(*FLAGS)
    assert called.code == 2 and "--namespace" in called.err
    for namespace in ("shop", "shop", "kubeflow"):
        assert here(*FLAGS, "--namespace", namespace).code == 0
    assert [p.namespace for p in kfp.pipelines.values()] == ["shop", "kubeflow"]
    assert [e.namespace for e in kfp.experiments.values()] == ["shop", "kubeflow"]


def test_one_user_has_none(kfp, here):
    assert here(*FLAGS, "--namespace", "kubeflow").code == 0
    assert here(*FLAGS, "--namespace", "shop").code == 0
    assert len(kfp.pipelines) == 1


@pytest.fixture
def ending(kfp, monkeypatch):
    """Runs that are asked for three times before they end."""
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    asked = []

    def end(state, **nodes):
        def moves():
            asked.append(1)
            run_id = list(kfp.runs)[-1]
            kfp.finish(run_id, state if len(asked) > 3 else "RUNNING", **nodes)

        kfp.faults[f"GET {API}/runs/.*"] = moves

    return end


def test_waiting_tells_the_stages_and_the_end(kfp, here, ending):
    ending("SUCCEEDED", cached=("prepare-data",))
    called = here(*FLAGS, "--wait")
    assert called.code == 0
    assert "prepare_data: reused" in called.err and "train: succeeded" in called.err
    assert called.err.count("train: succeeded") == 1
    assert ": succeeded; began" in called.out


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_waiting_for_a_run_that_fails(kfp, here, ending, state):
    ending(state, failed="train")
    called = here(*FLAGS, "--wait")
    assert called.code == 1
    assert f": {state.lower()}; began" in called.out and "kubectl logs" in called.out


def test_waiting_outlasts_a_short_outage_and_a_token(kfp, here, monkeypatch, tmp_path):
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    kfp.token = "first"
    file = tmp_path / "token"
    file.write_text("first")
    calls = []

    def moves():
        calls.append(1)
        if len(calls) == 2:
            raise Refused(503, "upstream connect error")
        if len(calls) == 3:
            file.write_text("second")
        if len(calls) == 4:
            kfp.token = "second"
            kfp.finish(list(kfp.runs)[-1])

    kfp.faults[f"GET {API}/runs/.*"] = moves
    called = here(*FLAGS, "--wait", "--token-file", file)
    assert called.code == 0, called.err
    assert "asking again" in called.err


def test_waiting_ends_when_the_backend_stays_away(kfp, here, monkeypatch):
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(submit, "PATIENCE_SECONDS", 0.05)

    def away():
        raise Refused(503, "upstream connect error")

    kfp.faults[f"GET {API}/runs/.*"] = away
    called = here(*FLAGS, "--wait")
    assert called.code == 75
    assert "The run continues: macrec status" in called.err


def test_a_pipeline_that_ends_with_a_stage():
    whole = Dag(PIPELINE_YAML.read_text())
    part = Dag(whole.cut("quantize"))
    assert set(part.tasks) == {
        "check-run",
        "prepare-data",
        "embed-text",
        "embed-image",
        "embed-histories",
        "pseudo-label",
        "quantize",
    }
    assert part.name == whole.name and part.parameters == whole.parameters
    executors = set(part.documents[0]["deploymentSpec"]["executors"])
    assert executors == {f"exec-{task}" for task in part.tasks}
    pods = part.documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == executors
    from kfp import components

    loaded = components.load_component_from_text(whole.cut("quantize"))
    assert set(loaded.component_spec.inputs) == set(whole.parameters)


def test_what_follows_a_stage():
    dag = Dag(PIPELINE_YAML.read_text())
    assert dag.from_stage("train") == ["train", "evaluate", "recommend"]
    assert dag.from_stage("pseudo_label")[:3] == ["pseudo_label", "quantize", "resolve_collisions"]
    assert Path(PIPELINE_YAML).is_file() and dag.from_stage("recommend") == ["recommend"]
