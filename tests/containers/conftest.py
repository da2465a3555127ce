"""Images, built from the shipped Dockerfile by `macrec images build`, and their engine."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.local import images
from tests.containers.podman import BASE, Podman
from tests.pipelines.conftest import Called, Sample, SmallRun, macrec, sample, small_run

__all__ = ["Called", "Sample", "SmallRun", "macrec", "sample", "small_run"]

INSTALL = Path(__file__).parent / "install.sh"
index = os.environ.get("TORCH_INDEX")
TORCH_INDEX = [f"--build-arg=TORCH_INDEX={index}"] if index else []


def _unavailable(reason: str) -> None:
    """CI does without nothing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    if os.getuid() != 0 or not shutil.which("apt-get"):
        _unavailable("containers are tested as root on Debian, with podman from apt")
    installed = subprocess.run(["bash", INSTALL], capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        _unavailable(f"{INSTALL.name}: apt does not install podman here: {installed.stderr[-500:]}")
    engine = Podman()
    try:
        yield engine
    finally:
        engine.remove()


@pytest.fixture(scope="session")
def build(podman: Podman, macrec: Callable[..., Called]) -> Callable[[str], Called]:
    """Build the image of a pool; the build alone sees pip's package sources."""
    podman.make_base()

    def build(pool: str) -> Called:
        podman.configure(volumes=podman.as_pip_here())
        with podman.service(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", podman.environment["DOCKER_HOST"])
            called = macrec("images", "build", pool, "--base-image", BASE, *TORCH_INDEX)
        podman.configure()
        assert called.code == 0, called.err
        return called

    return build


@pytest.fixture(scope="session")
def built(build: Callable[[str], Called]) -> Called:
    return build("cpu")


@pytest.fixture(scope="session")
def engine(podman: Podman) -> Iterator[None]:
    """The SDK reaches an engine that has the images that were built."""
    with podman.service(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", podman.environment["DOCKER_HOST"])
        yield


@pytest.fixture(scope="session")
def image(built: Called, engine: None) -> str:
    """The name of the cpu image."""
    return images.reference("cpu")
