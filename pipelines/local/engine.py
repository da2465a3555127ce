"""Connects to the container engine of this machine, Docker or podman."""

import contextlib
import os
from pathlib import Path
from typing import Any

from macrec.core.errors import UserError

PODMAN_SOCKET = "podman/podman.sock"
DOCKER_SOCKET = Path("/var/run/docker.sock")


def connect() -> Any:
    """Return a client of the engine at DOCKER_HOST, else Docker's socket, else podman's socket.

    Raises:
        UserError: if no engine responds.
    """
    # Imported here because it takes a tenth of a second and few commands need an engine.
    from docker.errors import DockerException

    import docker

    chosen = engine_environment()
    try:
        return docker.from_env(environment=chosen)
    except DockerException as error:
        address = chosen.get("DOCKER_HOST", f"unix://{DOCKER_SOCKET}")
        raise UserError(
            f"no container engine responds at {address} ({error}). Start Docker or "
            "`podman system service --time 0`, or set DOCKER_HOST."
        ) from error


def engine_environment() -> dict[str, str]:
    """Return the caller's environment, with podman's socket as DOCKER_HOST if needed."""
    environment = dict(os.environ)
    if "DOCKER_HOST" in environment or DOCKER_SOCKET.exists():
        return environment
    runtime = environment.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    for socket in (Path(runtime) / PODMAN_SOCKET, Path("/run") / PODMAN_SOCKET):
        with contextlib.suppress(PermissionError):
            if socket.exists():
                return {**environment, "DOCKER_HOST": f"unix://{socket}"}
    return environment
