"""The cpu image as it is shipped, and the DAG in its containers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import docker
from components.run_form import RECOMMENDER, flatten, resolve
from macrec.core.artifact import Artifact
from pipelines.local import containers, images, pipeline_runner
from pipelines.local.run import run_stages
from tests.pipelines.conftest import ROOT, SMOKE

pytestmark = pytest.mark.slow

SMALL = ["--set", "embed_image.max_bad_images=0.05"]  # 1 of 60 pictures is broken
LIMIT_BYTES = {"without CUDA": 1.7e9, "with CUDA": 5.8e9}
CONFINED = """
import importlib.metadata, os, pathlib, socket
assert os.getuid() == 1000, os.getuid()
pathlib.Path("/tmp/a").write_text("a")
for path in ("/a", "/opt/macrec/a", "/opt/venv/a"):
    try:
        pathlib.Path(path).write_text("a")
    except OSError as error:
        assert error.errno in (13, 30), error  # permission denied, read-only file system
    else:
        raise SystemExit(f"{path} was written")
assert [name for _, name in socket.if_nameindex()] == ["lo"]
installed = {package.name for package in importlib.metadata.distributions()}
assert "torch" in installed and not installed & {"pip", "kfp", "docker"}, installed
"""


@pytest.fixture(scope="module")
def client(image):
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def folder():
    """One that another user can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="macrec-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def left(client):
    return client.containers.list(all=True)


def test_the_image_is_small_and_says_what_is_in_it(client, image, built):
    size = client.images.get(image).attrs["Size"]
    (limit,) = (limit for kind, limit in LIMIT_BYTES.items() if f"{kind}  packages" in built.out)
    assert size < limit, built.out
    path = Path(built.out.split("packages: ")[1].strip())
    assert path.parent.name == images.tag() and built.out.startswith(image)
    listed = {c["purl"].split("@")[0] for c in json.loads(path.read_text())["components"]}
    assert {"pkg:pypi/torch", "pkg:pypi/pyarrow", "pkg:deb/debian/libc6"} <= listed
    assert not {"pkg:pypi/kfp", "pkg:pypi/docker"} & listed


@pytest.mark.case(39)
def test_the_image_as_it_is_runs_without_network_root_and_writing(client, image):
    container = client.containers.create(
        image,
        ["python", "-c", CONFINED],
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
    )
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0, container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.mark.case(39)
def test_a_stage_of_user_1000_gives_what_it_gives_here(client, image, sample, macrec, folder):
    """Data that it may only read, a folder that is its own."""
    data, out, here = folder / "data", folder / "out", folder / "here"
    subprocess.run(["cp", "-r", sample.data, data], check=True)
    subprocess.run(["chmod", "-R", "a+rX", data], check=True)
    out.mkdir()
    os.chown(out, 1000, 1000)
    flags = [
        *("--catalog", str(data / "items.parquet")),
        *("--interactions", str(data / "interactions.parquet")),
    ]
    launch = containers.Containers(
        containers.Options(image, user="1000:1000"), containers.mounts([out], [data])
    )
    command = ["python", "-m", "components", "prepare_data", *flags, "--out", str(out)]
    assert launch(command, {}) == 0
    assert macrec("stage", "prepare_data", *flags, "--out", here).code == 0
    for name in ("items", "sequences"):
        assert Artifact.open(out / name).verify().digest == Artifact.open(here / name).digest
        assert (out / name).stat().st_uid == 1000
    assert launch(["touch", "touch", str(data / "new")], {}) != 0
    assert not left(client)


def stored(store):
    return sorted(p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file())


def computed(macrec, out):
    """Stages that have computed their result."""
    told = json.loads(macrec("status", out, "--json").out)
    return {stage["stage"] for stage in told["stages"] if stage["state"] == "computed"}


@pytest.mark.case(39)
def test_a_failed_run_is_rerun_and_has_the_same_digests_as_in_processes(
    client, image, sample, small_run, macrec, tmp_path, monkeypatch
):
    """A file in the place of a folder of the store is what makes train fail at first."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums of another number of threads differ
    outs = [tmp_path / "containers", small_run.out]
    flags = ["--config", SMOKE, *sample.flags, *SMALL]
    in_the_way = outs[0] / "store" / "records" / "train"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("")
    failed = macrec("run", *flags, "--out", outs[0], "--containers")
    assert failed.code == 1 and "train failed with exit code 1" in failed.err, failed.err[-2000:]
    in_the_way.unlink()
    mended = macrec("rerun", outs[0], "--containers")
    assert mended.code == 0, mended.err[-2000:]
    assert computed(macrec, outs[0]) == {"check_run", "train", "evaluate", "recommend"}
    # The store names each file by its content, each record by its stage's fingerprint.
    names = [stored(out / "store") for out in outs]
    assert names[0] == names[1]
    assert {name.split("/")[1] for name in names[0] if name.startswith("records/")} == {
        stage.name for stage in RECOMMENDER.stages
    }
    assert (outs[0] / "report.html").read_bytes() == (outs[1] / "report.html").read_bytes()
    made = next((outs[0] / "runs").rglob("semantic_ids/manifest.json"))
    assert made.stat().st_nlink > 1, "the store has copied what it could link"
    alone = macrec("rerun", outs[0], "--only", "resolve_collisions", "--containers")
    assert alone.code == 0, alone.err[-2000:]
    assert "resolve_collisions" in computed(macrec, outs[0])
    assert not left(client)


@pytest.fixture
def broken_pipeline(tmp_path):
    """pipeline.yaml, but the second task ends with exit code 3."""
    documents = list(yaml.safe_load_all(pipeline_runner.PIPELINE_YAML.read_text()))
    container = documents[0]["deploymentSpec"]["executors"]["exec-prepare-data"]["container"]
    container["command"] = ["sh", "-c", "exit 3", "prepare_data"]
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_a_stage_that_exits_with_3_fails_the_run(
    client, image, sample, broken_pipeline, tmp_path, capfd
):
    values = flatten(yaml.safe_load(SMOKE.read_text())) | {
        "catalog_items": str(sample.data / "items.parquet"),
        "catalog_interactions": str(sample.data / "interactions.parquet"),
        "encoder_text": str(sample.text_model),
    }
    with pytest.raises(SystemExit) as ended:
        run_stages(resolve(values), tmp_path / "out", broken_pipeline, containers.Options(image))
    assert ended.value.code == 3
    assert "prepare_data failed with exit code 3" in capfd.readouterr().err
    assert not left(client)


def test_no_exit_code_is_lost_however_short_the_container_lives(client, image):
    launch = containers.Containers(containers.Options(image), [], client)
    assert [launch(["sh", "-c", f"exit {code}"], {}) for code in (3, 0, 3, 3, 75)] == [
        *(3, 0, 3, 3, 75)
    ]
    assert not left(client)


def test_a_silent_stage_is_waited_for(client, image, capfd):
    impatient = docker.from_env(timeout=5)  # with answers, but not with a log
    launch = containers.Containers(containers.Options(image), [], impatient)
    assert launch(["sh", "-c", "echo before; sleep 8; echo after; exit 4"], {}) == 4
    impatient.close()
    assert capfd.readouterr().err == "before\nafter\n"


def test_a_run_that_is_terminated_stops_its_container(client, image):
    """The stage hears of it first, and nothing is left behind."""
    program = (
        "from pipelines.local.containers import Containers, Options\n"
        f"launch = Containers(Options({image!r}), [])\n"
        "launch(['sh', '-c', 'trap \"echo told; exit 0\" TERM; echo up; sleep 60 & wait'], {})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr and process.stderr.readline() == "up\n"
    assert len(left(client)) == 1
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stderr.close()
    assert time.monotonic() - started < containers.SECONDS_TO_STOP
    assert not left(client)


def test_a_pushed_image_is_locked_by_the_digest_that_the_registry_has(
    client, podman, monkeypatch, tmp_path
):
    """The images here hold one small file: only their names and digests matter."""
    for name in ("MADE", "IMAGES_LOCK", "PIPELINE_YAML"):
        monkeypatch.setattr(images, name, tmp_path / name)
    monkeypatch.setattr(images, "write_components", lambda images: None)
    repository, tar = f"{podman.registry}/shop/macrec", tmp_path / "file.tar"
    for pool in images.POOLS:
        (tmp_path / "pool").write_text(pool)
        subprocess.run(["tar", "cf", tar, "-C", tmp_path, "pool"], check=True)
        podman.call("import", "--quiet", tar, images.reference(pool, repository))
    with podman.serve_registry():
        images.push(images.POOLS, repository)
        images.lock(repository)
        locked = json.loads((tmp_path / "IMAGES_LOCK").read_text())
        for pool, name in locked.items():
            assert name.startswith(images.reference(pool, repository) + "@sha256:")
            client.images.remove(images.reference(pool, repository), force=True)
            podman.call("pull", "--quiet", name)
    assert locked["cpu"].partition("@")[2] != locked["gpu"].partition("@")[2]
