"""The commands that compile and check pipelines, and build container images."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from macrec.core.errors import check
from macrec.core.stage import Pool
from pipelines.cli import contract
from pipelines.dag import policy
from pipelines.dag.compile import compile_pipeline, locked_images, write_components
from pipelines.local import images

Pipeline = Literal["recommender", "encode"]
TARGETS: dict[Pipeline, Path] = {
    "recommender": Path("pipeline.yaml"),
    "encode": Path("encode.yaml"),
}
PoolArgument = Annotated[
    list[Pool] | None, typer.Argument(metavar="cpu|gpu", help="Images. Default: both.")
]
RepositoryOption = Annotated[
    str, typer.Option(metavar="NAME", help="Name of the images without -cpu and -gpu.")
]


def write_pipeline(
    pipeline: Annotated[Pipeline, typer.Option(help="Pipeline to compile.")] = "recommender",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. Default: pipeline.yaml or encode.yaml."),
    ] = None,
    cpu_image: Annotated[
        str,
        typer.Option(metavar="IMAGE", help="Image of the CPU stages. Default: docker/images.lock."),
    ] = "",
    gpu_image: Annotated[
        str,
        typer.Option(metavar="IMAGE", help="Image of the GPU stages. Default: docker/images.lock."),
    ] = "",
    embedding_shards: Annotated[
        int,
        typer.Option(metavar="N", help="Number of tasks that share the embedding of a modality."),
    ] = 1,
    resources: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with the CPU and memory requests and limits of each stage.",
        ),
    ] = None,
) -> None:
    """Compile a pipeline to a YAML file.

    Without --out, components/*/component.yaml are written too.
    """
    locked = locked_images()
    chosen = {pool: name for pool, name in (("cpu", cpu_image), ("gpu", gpu_image)) if name}
    images.check_lock({pool: name for pool, name in locked.items() if pool not in chosen})
    target = out or TARGETS[pipeline]
    target.write_text(compile_pipeline(locked | chosen, pipeline, embedding_shards, resources))
    print(f"wrote {target}")
    if out is None and pipeline == "recommender":
        write_components(locked | chosen)
        print("wrote components/*/component.yaml")


def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Compiled pipeline.")] = TARGETS[
        "recommender"
    ],
    digests: Annotated[
        bool, typer.Option("--digests", help="Reject images that are named by a tag.")
    ] = False,
) -> None:
    """Check a compiled pipeline, and list all problems."""
    print(policy.lint(file, digests))


def write_contract(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the file.")] = Path("docs"),
) -> None:
    """Write data_contract.md, the description of all artifacts."""
    path = out / "data_contract.md"
    path.write_text("\n".join(contract.lines()) + "\n")
    print(f"wrote {path}")


images_app = typer.Typer(
    help="Build, push and lock the container images.", add_completion=False, rich_markup_mode=None
)


@images_app.command("build")
def build_images(
    pools: PoolArgument = None,
    repository: RepositoryOption = "macrec",
    base_image: Annotated[
        str, typer.Option(metavar="IMAGE", help="Image from which the images are built.")
    ] = "",
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Build argument of docker/Dockerfile. Repeat it for several."
        ),
    ] = None,
) -> None:
    """Build the images of the current sources."""
    arguments: dict[str, str] = {}
    for assignment in build_arg or []:
        name, equals, value = assignment.partition("=")
        check(bool(equals), f"--build-arg {assignment}: write NAME=VALUE.")
        arguments[name] = value
    if base_image:
        arguments["BASE_IMAGE"] = base_image
    images.build(pools or list(Pool), repository, arguments)


@images_app.command("push")
def push_images(pools: PoolArgument = None, repository: RepositoryOption = "macrec") -> None:
    """Push the images to the registry that --repository names."""
    images.push(pools or list(Pool), repository)


@images_app.command("lock")
def lock_images(repository: RepositoryOption = "macrec") -> None:
    """Write the images to docker/images.lock and pipeline.yaml."""
    images.lock(repository)
