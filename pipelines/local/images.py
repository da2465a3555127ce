"""`macrec images`: builds, pushes and locks the container images, tagged by a hash of the sources.

The image string is the only identity of the code in KFP's cache key. So it must change if and only
if the sources of a stage change. The hash covers exactly the files that are sent to the engine.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from macrec.core.errors import UserError, check
from macrec.core.progress import log
from pipelines.dag.compile import IMAGES_LOCK, ROOT, compile_pipeline, write_components
from pipelines.local.engine import connect
from pipelines.local.pipeline_runner import PIPELINE_YAML

POOLS = ("cpu", "gpu")
DOCKERFILE = "docker/Dockerfile"
SOURCES = (
    DOCKERFILE,
    "docker/*.py",
    "docker/*.sh",
    "locks/install.py",
    "locks/check.py",
    "locks/*.txt",
)
FOLDERS = ("src", "components")
# component.yaml contains the tag, and no stage reads it.
NOT_SOURCES = ("__pycache__", ".egg-info", ".pyc", "component.yaml")
TAG = "src-"
LIST_IN_IMAGE = "/opt/macrec/sbom.cdx.json"
MADE = ROOT / "build" / "images"
PUSHED = "pushed.json"
# First words of the lines that locks/install.py and locks/check.py print.
INSTALLER = ("PyTorch: ", "ready: ")
# Matches a line that Docker and podman print during a push. The digests that podman later lists for
# an image include some that no registry has.
DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")


def source_files(root: Path = ROOT) -> list[Path]:
    """Return the files that go into an image, sorted by their relative paths.

    Raises:
        UserError: if the root is not a checkout of the project.
    """
    check(
        (root / DOCKERFILE).is_file(),
        f"{root}: no {DOCKERFILE}. Images are built and named from a checkout of the project.",
    )
    files = [path for pattern in SOURCES for path in root.glob(pattern)]
    for folder in FOLDERS:
        files += [
            path
            for path in (root / folder).rglob("*")
            if path.is_file() and not any(p.endswith(NOT_SOURCES) for p in path.parts)
        ]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def tag(root: Path = ROOT) -> str:
    """Return the image tag of the current sources, a hash of file names and contents."""
    digest = hashlib.sha256()
    for path in source_files(root):
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return TAG + digest.hexdigest()[:16]


def reference(pool: str, repository: str = "macrec") -> str:
    """Return the image name of a pool (cpu, gpu) for the current sources."""
    return f"{repository}-{pool}:{tag()}"


def context(root: Path = ROOT) -> io.BytesIO:
    """Return the build context: a tar of the sources without owners or times of this machine."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path in source_files(root):
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    content.seek(0)
    return content


def build(pools: Sequence[str], repository: str, arguments: Mapping[str, str]) -> None:
    """Build the images of the current sources, print their names and write their package lists.

    Args:
        pools: pools to build, of cpu and gpu.
        repository: image name without the pool; the path in a registry if the images are to be
            pushed.
        arguments: build arguments of docker/Dockerfile.

    Raises:
        UserError: if no engine responds or the build fails.
    """
    client = connect()
    for pool in pools:
        name = reference(pool, repository)
        log.info("building %s", name)
        events = client.api.build(
            fileobj=context(),
            custom_context=True,
            dockerfile=DOCKERFILE,
            target=pool,
            tag=name,
            buildargs=dict(arguments),
            labels={"org.opencontainers.image.title": f"MACRec stages, {pool}"},
            rm=True,
            forcerm=True,
            decode=True,
        )
        lines: list[str] = []
        for event in _raise_errors(events, f"building {name}", lines):
            for line in event.get("stream", "").splitlines():
                lines.append(line)
                # Docker's lines begin with "Step ", podman's with "STEP " or "[".
                if line.startswith(("Step ", "STEP ", "[", *INSTALLER)):
                    log.info("%s", line)
        packages = _write_packages(client, name, pool)
        size = client.images.get(name).attrs["Size"]
        print(f"{name}  {size / 1e9:.2f} GB  {_torch_in(packages)}  packages: {packages}")


def _torch_in(packages: Path) -> str:
    """Return the PyTorch version in an image, from its list of packages."""
    listed = json.loads(packages.read_text())["components"]
    python = [c for c in listed if c["purl"].startswith("pkg:pypi/")]
    versions = {component["name"]: component["version"] for component in python}
    kind = "with" if any(name.startswith("nvidia-") for name in versions) else "without"
    return f"PyTorch {versions['torch']} {kind} CUDA"


def _write_packages(client: Any, name: str, pool: str) -> Path:
    """Copy the list of packages out of an image, without running it."""
    container = client.containers.create(name, ["true"])
    try:
        parts, _ = container.get_archive(LIST_IN_IMAGE)
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            assert file is not None
            content = file.read()
    finally:
        container.remove(force=True)
    path = MADE / tag() / f"{pool}.cdx.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def push(pools: Sequence[str], repository: str) -> None:
    """Push the images of the current sources and record the digests that the registry returns.

    Raises:
        UserError: if no engine responds, the engine has no such image, or the registry refuses it.
    """
    from docker.errors import ImageNotFound

    client = connect()
    path = MADE / tag() / PUSHED
    for pool in pools:
        name = reference(pool, repository)
        try:
            client.images.get(name)
        except ImageNotFound as error:
            raise UserError(f"no image {name}: run `macrec images build` first.") from error
        target, _, its_tag = name.rpartition(":")
        log.info("pushing %s", name)
        digest = ""
        events = client.api.push(target, its_tag, stream=True, decode=True)
        for event in _raise_errors(events, f"pushing {name}", []):
            found = DIGEST.search(event.get("status") or "")
            digest = found[1] if found else digest
        check(bool(digest), f"pushing {name}: the engine returned no digest. Push it by hand.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**_push_one(), name: digest}, indent=1) + "\n")
        print(f"{name}@{digest}")


def _push_one() -> dict[str, str]:
    path = MADE / tag() / PUSHED
    return json.loads(path.read_text()) if path.is_file() else {}


def _raise_errors(
    events: Iterator[dict[str, Any]], doing: str, lines: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the engine's events until one of them is an error.

    Args:
        events: events of a build or push.
        doing: what the engine does, for the message.
        lines: output so far; the message ends with its last 20 lines.

    Raises:
        UserError: if an event is an error.
    """
    for event in events:
        if "error" in event:
            raise UserError("\n  ".join([f"{doing}: {event['error'].strip()}", *lines[-20:]]))
        yield event


def lock(repository: str) -> None:
    """Write the images of the current sources to images.lock, pipeline.yaml and component.yaml.

    Images pushed from here are named by tag and digest, the others by tag only.
    """
    names = {pool: reference(pool, repository) for pool in POOLS}
    digests = _push_one()
    images = {pool: f"{n}@{digests[n]}" if n in digests else n for pool, n in names.items()}
    IMAGES_LOCK.write_text(json.dumps(images, indent=1) + "\n")
    PIPELINE_YAML.write_text(compile_pipeline(images))
    write_components(images)
    for name in images.values():
        print(name if "@" in name else f"{name}  (not pushed from here: by its tag, no digest)")
    print(f"wrote {IMAGES_LOCK.name}, {PIPELINE_YAML.name} and components/*/component.yaml")


def check_lock(images: Mapping[str, str]) -> None:
    """Check that images whose tag is a hash of sources were built from the current sources.

    Raises:
        UserError: if some images were built from other sources.
    """
    behind = [
        f"{pool}={name}"
        for pool, name in images.items()
        if (of := name.partition("@")[0].rpartition(":")[2]).startswith(TAG) and of != tag()
    ]
    check(
        not behind,
        f"docker/images.lock: {', '.join(behind)} built from other sources than these ({tag()}). "
        "Run "
        "`macrec images build`, `push` and `lock`, or give --cpu-image and --gpu-image.",
    )
