"""podman with a configuration, a storage and a service of its own, in one folder that is removed.

Nothing of it depends on the machine's own podman, and nothing is left of it.
"""

import configparser
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

BASE = "localhost/debian-python:bookworm"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
# What neither Python nor a stage reads.
LEFT_OUT = ("/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/man/*")


class Podman:
    """A storage of images and containers, and a way to start the service that the SDK talks to."""

    def __init__(self) -> None:
        # Not pytest's folder: podman wants short paths.
        self.root = Path(tempfile.mkdtemp(prefix="macrec-podman-", dir="/var/tmp"))
        self.socket = self.root / "podman.sock"
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.root / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.root / "registries.conf"),
            "DOCKER_HOST": f"unix://{self.socket}",
            "TMPDIR": str(self.root / "partial"),  # podman leaves files there
        }
        (self.root / "partial").mkdir()
        (self.root / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{self.root}/run"\n'
            f'graphroot = "{self.root}/graph"\n'
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.registry = f"127.0.0.1:{probe.getsockname()[1]}"
        self.configure()

    def configure(self, volumes: Sequence[str] = ()) -> None:
        """Writes the configuration; a service reads it when it starts."""
        mounts = ", ".join(f'"{volume}"' for volume in volumes)
        (self.root / "containers.conf").write_text(
            '[containers]\nnetns = "host"\n'
            'default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n'
            f"volumes = [{mounts}]\n"
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'lock_type = "file"\ntmp_dir = "{self.root}/tmp"\n'
        )
        (self.root / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{self.registry}"\ninsecure = true\n'
        )

    def call(self, *arguments: object) -> str:
        """podman's own command line."""
        done = subprocess.run(
            ["podman", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """Serves Docker's API at `socket`."""
        log = self.root / "service.log"
        with log.open("ab") as file:
            command = ["podman", "system", "service", "--time", "0", f"unix://{self.socket}"]
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 60
            while not self.socket.exists():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)
            self.socket.unlink(missing_ok=True)

    @contextlib.contextmanager
    def serve_registry(self) -> Iterator[None]:
        """Serves an empty registry at `registry`; its program is unpacked here, not installed."""
        folder = self.root / "registry"
        folder.mkdir()
        for command in ("apt-get download -qq docker-registry", "dpkg -x docker-registry_*.deb ."):
            subprocess.run(command, shell=True, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        (folder / "config.yml").write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: '{self.registry}'}}\n"
        )
        with (folder / "log").open("wb") as log:
            command = [folder / "usr/bin/docker-registry", "serve", folder / "config.yml"]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        host, _, port = self.registry.partition(":")
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection((host, int(port)), timeout=5).close()
                    break
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)

    def remove(self) -> None:
        """Removes all containers and images and the folder."""
        with contextlib.suppress(AssertionError):
            self.call("rm", "--all", "--force", "--time", "0")
        subprocess.run(["umount", "--quiet", self.root / "graph" / "overlay"], check=False)
        shutil.rmtree(self.root)

    def make_base(self) -> None:
        """Imports a Debian with Python that is made here: it stands for the official image."""
        tar = self.root / "base.tar"
        options = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
                *("--include=python3-minimal,python3-venv,ca-certificates", *options),
                *("bookworm", tar),
            ],
            check=True,
        )
        self.call("import", "--quiet", tar, BASE)
        tar.unlink()

    def as_pip_here(self) -> list[str]:
        """Volumes that give a build the package sources and certificates that pip has here."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        settings = dict[str, str]()
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            settings[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", "\n")
        for own in ("constraint", "user", "require-virtualenv", "cache-dir", "config-file"):
            settings.pop(own, None)  # of this machine only
        config = configparser.ConfigParser(interpolation=None)
        config["global"] = settings
        with (self.root / "pip.conf").open("w") as file:
            config.write(file)
        folders = {path for value in settings.values() for path in _folders(value)}
        volumes = [f"{self.root / 'pip.conf'}:/etc/pip.conf:ro"]
        if CA_BUNDLE.exists():
            volumes.append(f"{CA_BUNDLE}:{CA_BUNDLE}:ro")
        return volumes + [f"{path}:{path}:ro" for path in sorted(folders - {CA_BUNDLE})]


def _folders(value: str) -> Iterator[Path]:
    """The paths in a setting; of an index (…/simple) the folder above, where its files lie."""
    for word in value.split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            yield path.parent if path.name == "simple" else path
