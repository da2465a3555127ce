"""Set-up and the image's installer, with wheels that are made here and the real pip."""

import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.locks.wheels import make_torch, make_wheel, write_lock

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture
def tree(tmp_path: Path) -> SimpleNamespace:
    """A checkout with the real scripts, and locks of wheels that lie in a folder."""
    locks, wheels = tmp_path / "locks", tmp_path / "wheels"
    locks.mkdir()
    for name in ("install.py", "check.py"):
        shutil.copyfile(ROOT / "locks" / name, locks / name)
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    stages = [make_wheel(wheels, name) for name in ("transformers", "pyarrow")]
    nvidia = make_wheel(wheels, "nvidia-cuda-runtime")
    write_lock(locks / "cuda.txt", nvidia)
    write_lock(locks / "stages.txt", *stages)
    write_lock(locks / "development.txt", *stages, make_wheel(wheels, "kfp"))
    write_lock(locks / "encoders.txt", make_wheel(wheels, "weights"))
    environment = {
        **os.environ,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "TORCH_INDEX": "pip",
        "VENV": str(tmp_path / "venv"),
        "PYTHON": sys.executable,
    }

    def offer(**kind: object) -> Path:
        """Put one torch into the folder of wheels and into the lock."""
        for old in wheels.glob("torch-*"):
            old.unlink()
        wheel = make_torch(wheels, **kind)  # type: ignore[arg-type]
        write_lock(locks / "torch.txt", wheel)
        return wheel

    def call(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)],
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
        )

    def install(lock: str = "stages.txt", **more: str) -> subprocess.CompletedProcess[str]:
        """Run the installer in a new environment."""
        made = call(sys.executable, "-m", "venv", "--clear", "venv")
        assert made.returncode == 0, made.stderr
        return call(tmp_path / "venv/bin/python", "locks/install.py", lock, **more)

    def installed() -> set[str]:
        found = (tmp_path / "venv/lib").glob("python3*/site-packages/*.dist-info")
        return {path.name.partition("-")[0] for path in found} - {"pip", "setuptools"}

    return SimpleNamespace(
        folder=tmp_path,
        locks=locks,
        wheels=wheels,
        offer=offer,
        call=call,
        install=install,
        installed=installed,
    )


def test_a_torch_for_cuda_gets_nvidias_packages(tree):
    tree.offer(cuda=True)
    done = tree.install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree.installed() == {"torch", "nvidia_cuda_runtime", "transformers", "pyarrow"}
    before, _, after = done.stdout.partition("torch-2.0-py3-none-any.whl")
    assert before.count("1,234 MB") == 2, "the sizes come before pip's first line"
    assert "2.0 is installed, for CUDA" in after
    checked = tree.call(tree.folder / "venv/bin/python", "locks/check.py", "--cuda")
    assert checked.returncode == 0 and "torch 2.0" in checked.stdout, checked.stderr


def test_a_torch_without_cuda_gets_none(tree):
    tree.offer(cuda=False)
    done = tree.install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree.installed() == {"torch", "transformers", "pyarrow"}
    assert "2.0+cpu is installed, without CUDA" in done.stdout
    checked = tree.call(tree.folder / "venv/bin/python", "locks/check.py", "--cuda")
    assert checked.returncode and "2.0+cpu is built without CUDA" in checked.stderr


def test_a_torch_whose_hash_is_not_locked_is_refused(tree):
    tree.offer(cuda=False)
    make_torch(tree.wheels, cuda=False, files={"torch/more.py": ""})
    done = tree.install()
    assert done.returncode and "DO NOT MATCH THE HASHES" in done.stderr
    assert tree.installed() == set()


def test_no_code_of_a_torch_runs_before_its_hash_is_compared(tree):
    """A source distribution's build backend would run to find out its dependencies."""
    tree.offer(cuda=False).unlink()
    source, ran = tree.folder / "torch-2.0", tree.folder / "ran"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    )
    (source / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with tarfile.open(tree.wheels / "torch-2.0.tar.gz", "w:gz") as archive:
        archive.add(source, "torch-2.0")
    done = tree.install()
    assert done.returncode and "pip download failed" in done.stderr
    assert not ran.exists() and tree.installed() == set()


def test_settings_of_the_users_pip_put_nothing_elsewhere(tree):
    tree.offer(cuda=False)
    elsewhere = tree.folder / "elsewhere"
    done = tree.install(PIP_TARGET=str(elsewhere), PIP_USER="1", PIP_REQUIRE_HASHES="1")
    assert done.returncode == 0, done.stderr
    assert not elsewhere.exists() and tree.installed() == {"torch", "transformers", "pyarrow"}


@pytest.mark.parametrize("arguments", [[], ["absent.txt"], ["a", "b"]])
def test_a_call_without_a_lock_downloads_nothing(tree, arguments):
    done = tree.call(sys.executable, "locks/install.py", *arguments)
    assert done.returncode and done.stderr.startswith("usage: ") and not done.stdout


def test_a_requirement_that_no_lock_lists_fails(tree):
    """pip check is what finds it, so it must not be silent."""
    tree.offer(cuda=False)
    write_lock(tree.locks / "stages.txt", make_wheel(tree.wheels, "pyarrow", requires=["absent"]))
    done = tree.install()
    assert done.returncode and "requires absent" in done.stdout


@pytest.mark.parametrize("more", [{}, {"torch/test/a.py": "", "torch/include/a.h": ""}])
def test_the_images_installer_takes_a_wheel_with_and_without_tests(tree, more):
    tree.offer(cuda=True, files={**more, "torch/tests/b.py": ""})
    done = tree.call("sh", "docker/install.sh", "cuda")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads((tree.folder / "sbom.cdx.json").read_text())["components"]
    assert {"torch", "nvidia-cuda-runtime"} <= {c["name"] for c in listed}
    (torch,) = (tree.folder / "venv/lib").glob("python3*/site-packages/torch")
    assert sorted(p.name for p in torch.iterdir() if p.name != "__pycache__") == ["__init__.py"]
    assert "pip" not in {p.name for p in torch.parent.iterdir()}
    assert done.stdout.splitlines()[-1].startswith("ready: Python 3")


def test_the_gpu_image_is_not_built_with_a_torch_without_cuda(tree):
    tree.offer(cuda=False)
    done = tree.call("sh", "docker/install.sh", "cuda")
    assert done.returncode and "built without CUDA" in done.stderr


BACKEND = """
from tests_wheels import make_wheel
from pathlib import Path
def build_editable(folder, config_settings=None, metadata_directory=None):
    return make_wheel(Path(folder), "macrec").name
"""


def test_set_up_is_ready_after_its_check_alone_and_repairs_one_that_was_cut_short(tree):
    """What an interrupted pip leaves looks installed: only a new environment is repaired."""
    shutil.copyfile(ROOT / "Makefile", tree.folder / "Makefile")
    shutil.copyfile(ROOT / "tests/locks/wheels.py", tree.folder / "tests_wheels.py")
    (tree.folder / "backend.py").write_text(BACKEND)
    (tree.folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "macrec"\nversion = "1.0"\n'
    )
    ready = tree.folder / ".venv/ready"
    tree.offer(cuda=False, broken=True)
    done = tree.call("make", "setup")
    assert done.returncode and "libtorch.so: file too short" in done.stderr, done.stderr
    assert not ready.exists()
    tree.offer(cuda=False)
    done = tree.call("make", "setup")
    assert done.returncode == 0 and ready.exists(), done.stdout + done.stderr
    last = next(line for line in done.stdout.splitlines() if line.startswith("ready: "))
    for text in ("torch 2.0+cpu", "transformers 1.0", "pyarrow 1.0", "kfp 1.0", "device: cpu"):
        assert text in last
    (tree.locks / "cuda.txt").touch()
    assert "venv .venv" in tree.call("make", "--dry-run", "setup").stdout, "a lock has changed"
    os.utime(tree.locks / "cuda.txt", (0, 0))
    changed = ready.stat().st_mtime_ns
    assert tree.call("make", "setup").returncode == 0 and ready.stat().st_mtime_ns == changed


@pytest.fixture
def index(tree) -> Iterator[str]:
    """A package index with the wheels of the tree's folder, as PyTorch's own is laid out."""
    pages = tree.folder / "index"
    (pages / "torch").mkdir(parents=True)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tree.folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/index"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def script() -> ModuleType:
    """locks/install.py as a module."""
    spec = importlib.util.spec_from_file_location("installer", ROOT / "locks" / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installer(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script on a Linux machine without a GPU, without TORCH_INDEX."""
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    monkeypatch.setattr(script, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(script, "this_machine", lambda: ("3.11", "Linux", "x86_64"))
    monkeypatch.setattr(script.platform, "system", lambda: "Linux")
    return script


def test_an_index_that_is_named_is_taken_from(tree, index):
    """Pip's own configuration finds nothing here."""
    wheel = tree.offer(cuda=False)
    moved = wheel.rename(tree.folder / "index" / "torch" / wheel.name)
    (moved.parent / "index.html").write_text(f'<a href="{moved.name}">{moved.name}</a>')
    environment = {"PIP_NO_INDEX": "0"}
    failed = tree.install(**environment, PIP_INDEX_URL=f"{index}/nothing")
    assert failed.returncode and "pip download failed" in failed.stderr
    done = tree.install(**environment, TORCH_INDEX=index)
    assert done.returncode == 0 and f"from {index} (TORCH_INDEX)" in done.stdout, done.stderr


def test_a_machine_without_a_gpu_takes_pytorchs_index_if_it_can_be_reached(
    installer, index, monkeypatch, capsys
):
    monkeypatch.setattr(installer, "WITHOUT_CUDA", index)
    assert installer.choose_index() == index
    assert "without CUDA" in capsys.readouterr().out
    monkeypatch.setattr(installer, "WITHOUT_CUDA", "http://127.0.0.1:9/whl/cpu")
    assert installer.choose_index() is None
    told = capsys.readouterr().out
    assert "http://127.0.0.1:9/whl/cpu cannot be reached (" in told and "refused" in told
    for lock in ("torch.txt", "cuda.txt"):
        assert installer.download_size(lock) in told
    assert "TORCH_INDEX=URL" in told


def _with_gpu(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "has_nvidia_gpu", lambda: True)


def _on_a_mac(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer.platform, "system", lambda: "Darwin")


def _on_arm(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "this_machine", lambda: ("3.11", "Linux", "aarch64"))


def _told_so(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_INDEX", "pip")


@pytest.mark.parametrize("change", [_with_gpu, _on_a_mac, _on_arm, _told_so])
def test_every_other_machine_takes_what_pip_is_configured_with(
    installer, index, monkeypatch, capsys, change: Callable[..., None]
):
    monkeypatch.setattr(installer, "WITHOUT_CUDA", index)
    change(installer, monkeypatch)
    assert installer.choose_index() is None
    assert "pip is configured with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        ("echo 'GPU 0: NVIDIA L4 (UUID: GPU-1)'", True),
        ("echo no driver; exit 9", False),
        ("printf 'GPU \\377'", True),
        ("exec sleep 60", False),
    ],
)
def test_a_gpu_is_what_nvidias_driver_lists(script, tmp_path, monkeypatch, answer, there):
    monkeypatch.setattr(script, "SECONDS_TO_ANSWER", 1)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert script.has_nvidia_gpu() is (shutil.which("nvidia-smi") is not None)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert script.has_nvidia_gpu() is there


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:notaport", "http://127.0.0.1:9"])
def test_a_broken_proxy_is_an_index_that_cannot_be_reached(installer, monkeypatch, capsys, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    assert installer.choose_index() is None
    assert f"{installer.WITHOUT_CUDA} cannot be reached (" in capsys.readouterr().out


def test_a_password_in_the_index_is_not_printed(installer, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_INDEX", " https://shop:secret@host:8443/simple ")
    assert installer.choose_index() == "https://shop:secret@host:8443/simple"
    assert "https://host:8443/simple" in (told := capsys.readouterr().out) and "secret" not in told


def test_the_dockerfile_gives_each_image_its_kind_of_torch():
    stages = (ROOT / "docker" / "Dockerfile").read_text().split("\nFROM ")
    installs = {s.split()[2]: re.findall(r"^RUN (.*install\.sh.*)$", s, re.M) for s in stages[1:]}
    assert installs["cpu"] == ["TORCH_INDEX=${TORCH_INDEX} sh docker/install.sh"]
    assert installs["gpu"] == ["TORCH_INDEX=pip sh docker/install.sh cuda"]
