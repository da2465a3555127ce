"""What is asked of the container engine; a stand-in notes it. tests/containers has a real one."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from docker.errors import APIError, ImageNotFound

from macrec.core.errors import UserError
from pipelines.local import containers, engine
from pipelines.local.containers import Containers, Mount, Options

COMMAND = ["python", "-m", "components", "train", "--executor-input", "{}"]


class Engine:
    """An engine with one image, whose containers print and end as they are told."""

    def __init__(
        self, code=0, security=("name=seccomp",), interrupted=None, refused=None, stuck=False
    ):
        self.code, self.interrupted, self.refused = code, interrupted, refused
        self.stuck, self.closed = stuck, threading.Event()
        self.done, self.asked, self.image = [], {}, "macrec-cpu:a"
        self.images, self.containers = SimpleNamespace(get=self._get), self
        self.info = lambda: {"SecurityOptions": list(security)}

    def _get(self, name):
        if name != self.image:
            raise ImageNotFound(f"no such image: {name}")

    def create(self, image, command, **settings):
        if self.refused:
            raise APIError("500", explanation=self.refused)
        self.asked = {"image": image, "command": command, **settings}
        return self

    def start(self):
        self.done.append("start")

    def logs(self, stream=False, follow=False):
        assert stream == follow
        return Followed(self) if stream else b"first\nsecond\n"

    def wait(self):
        self.done.append("wait")
        if self.interrupted:
            raise self.interrupted
        return {"StatusCode": self.code}

    def stop(self, timeout):
        self.done.append("stop")

    def remove(self, force, v):
        assert force and v
        self.done.append("remove")


class Followed:
    """The log of an engine's container as it comes; if it is stuck, behind the first line."""

    def __init__(self, engine):
        self.engine = engine

    def __iter__(self):
        yield b"first\n"
        if self.engine.stuck:
            assert self.engine.closed.wait(60)
        else:
            yield b"second\n"

    def close(self):
        self.engine.closed.set()


def launch(engine, mounted=(), **options):
    return Containers(Options("macrec-cpu:a", **options), mounted, engine)(COMMAND, {"NEW": "1"})


@pytest.mark.parametrize("code", [0, 3, 75, 137])
def test_the_exit_code_is_that_of_the_container_which_is_removed_last(code, capfd):
    engine = Engine(code)
    assert launch(engine) == code
    assert engine.done == ["start", "wait", "remove"]
    assert capfd.readouterr().err == "first\nsecond\n"


def test_a_log_that_never_ends_ends_with_its_container(monkeypatch, capfd):
    monkeypatch.setattr(containers, "SECONDS_FOR_LOG", 0.2)
    engine = Engine(3, stuck=True)
    assert launch(engine) == 3
    assert engine.done == ["start", "wait", "remove"]
    assert capfd.readouterr().err == "first\nsecond\n"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_run_stops_its_container_before_it_removes_it(interruption):
    engine = Engine(interrupted=interruption)
    with pytest.raises(type(interruption)):
        launch(engine)
    assert engine.done == ["start", "wait", "stop", "remove"]


def test_an_engine_that_fails_leaves_no_container():
    engine = Engine(interrupted=ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        launch(engine)
    assert engine.done == ["start", "wait", "remove"]


def test_a_container_is_confined(monkeypatch):
    chosen = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_CBWR": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F",
    }
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {**chosen, "AWS_SECRET_ACCESS_KEY": "of no concern"}.items():
        monkeypatch.setenv(name, value)
    engine = Engine()
    launch(engine, [Mount(Path("/data"), False), Mount(Path("/out"), True)])
    asked = engine.asked
    assert (asked["image"], asked["command"]) == ("macrec-cpu:a", COMMAND)
    assert asked["environment"] == {**chosen, "NEW": "1"}
    assert asked["network_mode"] == "none" and asked["read_only"] is True
    assert asked["cap_drop"] == ["ALL"] and "no-new-privileges" in asked["security_opt"]
    assert list(asked["tmpfs"]) == ["/tmp"]
    assert asked["labels"] == {containers.LABEL: "train"}
    seen = [(m["Source"], m["Target"], m["ReadOnly"]) for m in asked["mounts"]]
    assert seen == [("/data", "/data", True), ("/out", "/out", False)]


def test_network_and_credentials_only_where_they_are_asked_for(monkeypatch, tmp_path):
    key = tmp_path / "key.json"
    key.write_text("{}")
    monkeypatch.setenv(containers.CREDENTIALS, str(key))
    engine = Engine()
    launch(engine, network="host")
    assert engine.asked["network_mode"] == "host"
    assert engine.asked["environment"][containers.CREDENTIALS] == str(key)
    assert [m["Source"] for m in engine.asked["mounts"]] == [str(key)]
    assert engine.asked["mounts"][0]["ReadOnly"] is True
    launch(engine)
    assert containers.CREDENTIALS not in engine.asked["environment"] and not engine.asked["mounts"]


def test_the_processes_are_the_callers():
    engine = Engine()
    launch(engine)
    assert engine.asked["user"] == f"{os.getuid()}:{os.getgid()}"
    assert engine.asked["group_add"] == [str(g) for g in os.getgroups()]
    launch(engine, user="1000:1000")
    assert engine.asked["user"] == "1000:1000" and "group_add" not in engine.asked
    rootless = Engine(security=["name=seccomp", "name=rootless"])
    launch(rootless)  # whose root is the caller
    assert rootless.asked["user"] == "0:0" and "group_add" not in rootless.asked


def test_a_run_sees_its_data_its_output_and_its_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "out/images", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/items.csv").touch()
    arguments = {
        "catalog_items": "data/items.csv",
        "catalog_interactions": "gs://shop/log",
        "catalog_images": str(tmp_path / "out/images"),
        "encoder_text": "hub:org/model",
        "encoder_image": "",
        "run_store": "shared/store",
    }
    engine = Engine()
    monkeypatch.setattr(containers, "connect", lambda: engine)
    made = containers.of_run(Options("macrec-cpu:a"), arguments, Path("out"))
    assert {(str(m.path.relative_to(tmp_path)), m.writable) for m in made.mounted} == {
        ("data/items.csv", False),
        ("out", True),
        ("out/images", False),
        ("shared/store", True),
    }
    assert (tmp_path / "shared/store").is_dir()
    outer = [m.path for m in made.mounted]
    assert outer.index(tmp_path / "out") < outer.index(tmp_path / "out/images")


def test_a_store_in_the_output_folder_is_one_mount_with_it(tmp_path):
    """Across two mounts no hard link can be made."""
    assert containers.mounts([tmp_path, tmp_path / "store", tmp_path], []) == [
        Mount(tmp_path, True)
    ]


def test_what_the_links_of_a_model_folder_lead_to_is_mounted_with_it(tmp_path):
    for name in ("blobs", "snapshots/1", "unrelated"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "blobs/abc").touch()
    model = tmp_path / "snapshots/1"
    (model / "model.safetensors").symlink_to("../../blobs/abc")
    (model / "config.json").touch()
    (model / "again.json").symlink_to("config.json")
    (model / "gone.json").symlink_to("../../blobs/absent")
    assert {m.path for m in containers.mounts([], [model])} == {model, tmp_path / "blobs"}


def test_an_image_that_is_not_there_is_named_with_what_makes_it():
    with pytest.raises(UserError, match=r"no image macrec-cpu:b.*macrec images build cpu"):
        Containers(Options("macrec-cpu:b"), [], Engine())


def test_a_container_that_the_engine_refuses_is_a_user_error():
    with pytest.raises(UserError, match="macrec-cpu:a: no such network: shop"):
        launch(Engine(refused="no such network: shop"))


@pytest.mark.parametrize("host", ["unix:///nowhere/engine.sock", "tcp://127.0.0.1:9"])
def test_without_an_engine_the_error_names_its_address(macrec, sample, tmp_path, monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    called = macrec("run", *sample.flags, "--out", tmp_path, "--containers")
    assert called.code == 2 and host in called.err and "DOCKER_HOST" in called.err
    assert "Traceback" not in called.err


def test_podmans_socket_stands_in_for_dockers(monkeypatch, tmp_path):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(engine, "DOCKER_SOCKET", tmp_path / "docker.sock")
    (tmp_path / "podman").mkdir()
    (tmp_path / "podman/podman.sock").touch()
    assert engine.engine_environment()["DOCKER_HOST"] == f"unix://{tmp_path}/podman/podman.sock"
    (tmp_path / "docker.sock").touch()
    assert "DOCKER_HOST" not in engine.engine_environment()
