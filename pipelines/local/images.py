"""`macrec images`: the container images, named after the content of the sources that go in.

The image string is the only identity of the code in KFP's cache key, so it changes when a stage's
sources do and never otherwise. What is hashed is what is sent to the engine, file by file.
"""

import argparse
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
from pipelines.dag.compile import IMAGES_LOCK, ROOT, compiled
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
NOT_SOURCES = ("__pycache__", ".egg-info", ".pyc")
TAG = "src-"
LIST_IN_IMAGE = "/opt/macrec/sbom.cdx.json"
MADE = ROOT / "build" / "images"
PUSHED = "pushed.json"
# How the lines of locks/install.py and locks/check.py begin.
INSTALLER = ("PyTorch: ", "ready: ")
# A line of Docker's and podman's. Later podman knows an image by digests that no registry has, too.
DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")


def source_files(root: Path = ROOT) -> list[Path]:
    """The files that go into an image, sorted by their relative names.

    Raises:
        UserError: this is not a checkout.
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
    """The tag of images of these sources: a hash of the names and contents of their files."""
    digest = hashlib.sha256()
    for path in source_files(root):
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return TAG + digest.hexdigest()[:16]


def reference(pool: str, repository: str = "macrec") -> str:
    """The image of a pool (cpu, gpu), of these sources."""
    return f"{repository}-{pool}:{tag()}"


def context(root: Path = ROOT) -> io.BytesIO:
    """What is sent to the engine: a tar of the sources, with nothing of this machine in it."""
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
    """Builds images of these sources; prints their names, and writes what is installed in them.

    Args:
        pools: cpu, gpu.
        repository: what the images are called, without the pool; a registry's path if they are
            to be pushed.
        arguments: build arguments of docker/Dockerfile.

    Raises:
        UserError: no engine answers, or the build failed.
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
        for event in _ended_well(events, f"building {name}", lines):
            for line in event.get("stream", "").splitlines():
                lines.append(line)
                if line.startswith(("Step ", "STEP ", "[", *INSTALLER)):  # Docker's; podman's
                    log.info("%s", line)
        packages = _write_packages(client, name, pool)
        size = client.images.get(name).attrs["Size"]
        print(f"{name}  {size / 1e9:.2f} GB  {_torch_in(packages)}  packages: {packages}")


def _torch_in(packages: Path) -> str:
    """Return which PyTorch is in an image, from its list of packages."""
    listed = json.loads(packages.read_text())["components"]
    versions = {component["name"]: component["version"] for component in listed}
    kind = "with" if any(name.startswith("nvidia-") for name in versions) else "without"
    return f"PyTorch {versions['torch']} {kind} CUDA"


def _write_packages(client: Any, name: str, pool: str) -> Path:
    """Copies the list of packages out of an image, which need not run for that."""
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
    """Pushes the images of these sources, and notes the digests that the registry gave them.

    Raises:
        UserError: no engine answers, it does not have the image, or the registry refused it.
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
        for event in _ended_well(events, f"pushing {name}", []):
            found = DIGEST.search(event.get("status") or "")
            digest = found[1] if found else digest
        check(bool(digest), f"pushing {name}: the engine told no digest. Push it by hand.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**_pushed(), name: digest}, indent=1) + "\n")
        print(f"{name}@{digest}")


def _pushed() -> dict[str, str]:
    path = MADE / tag() / PUSHED
    return json.loads(path.read_text()) if path.is_file() else {}


def _ended_well(
    events: Iterator[dict[str, Any]], doing: str, lines: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The engine's events.

    Raises:
        UserError: one of them is an error; `lines` say what came before.
    """
    for event in events:
        if "error" in event:
            raise UserError("\n  ".join([f"{doing}: {event['error'].strip()}", *lines[-20:]]))
        yield event


def lock(repository: str) -> None:
    """Writes the images of these sources to docker/images.lock, and pipeline.yaml with them.

    An image that `push` has pushed is named with its digest, another by its tag alone.
    """
    names = {pool: reference(pool, repository) for pool in POOLS}
    digests = _pushed()
    images = {pool: f"{n}@{digests[n]}" if n in digests else n for pool, n in names.items()}
    IMAGES_LOCK.write_text(json.dumps(images, indent=1) + "\n")
    PIPELINE_YAML.write_text(compiled(images))
    for name in images.values():
        print(name if "@" in name else f"{name}  (not pushed from here: by its tag, no digest)")
    print(f"wrote {IMAGES_LOCK.name} and {PIPELINE_YAML.name}")


def check_lock(images: Mapping[str, str]) -> None:
    """Images that are named after sources must be named after these.

    Raises:
        UserError: some were built from others.
    """
    behind = [
        f"{pool}={name}"
        for pool, name in images.items()
        if (of := name.partition("@")[0].rpartition(":")[2]).startswith(TAG) and of != tag()
    ]
    check(
        not behind,
        f"docker/images.lock: {', '.join(behind)} of other sources than these ({tag()}). Run "
        "`macrec images build`, `push` and `lock`, or give --cpu-image and --gpu-image.",
    )


def add_commands(parser: argparse.ArgumentParser) -> None:
    """build, push and lock."""
    commands = parser.add_subparsers(required=True, metavar="build|push|lock")
    helps = {
        "build": "build the images of these sources",
        "push": "push them to the registry that --repository names",
        "lock": "write them to docker/images.lock, and pipeline.yaml with them",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        command.set_defaults(action=name)
        if name != "lock":
            command.add_argument(
                "pools", nargs="*", metavar="cpu|gpu", help="which ones (default: both)"
            )
        command.add_argument(
            "--repository", default="macrec", help="their name without -cpu, -gpu (default: macrec)"
        )
        if name == "build":
            command.add_argument("--base-image", help="image that theirs are made from")
            command.add_argument(
                "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="repeated"
            )


def run(options: argparse.Namespace) -> None:
    """One of the commands."""
    if options.action == "lock":
        lock(options.repository)
        return
    pools = options.pools or POOLS
    check(set(pools) <= set(POOLS), f"{' '.join(pools)}: there are cpu and gpu.")
    if options.action == "push":
        push(pools, options.repository)
        return
    arguments: dict[str, str] = {}
    for given in options.build_arg:
        name, equals, value = given.partition("=")
        check(bool(equals), f"--build-arg {given}: write NAME=VALUE.")
        arguments[name] = value
    if options.base_image:
        arguments["BASE_IMAGE"] = options.base_image
    build(pools, options.repository, arguments)
