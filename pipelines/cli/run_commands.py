"""The commands that run the pipeline on this machine, or that follow a run anywhere."""

from pathlib import Path
from typing import Annotated, Final

import typer

from components.run_form import ENCODE, LISTS_TOP_K, RECOMMENDER, stage_values
from components.stages import RECOMMEND
from pipelines.cli.shared_options import (
    ConnectionOptions,
    ContainerOptions,
    DataOptions,
    JsonOption,
    PackageOption,
    RunArgument,
    RunOptions,
    SetOption,
    SettingOptions,
    StoredOptions,
    WaitOption,
    field_option,
    read_settings,
)
from pipelines.cluster import status
from pipelines.cluster.rerun import rerun
from pipelines.cluster.rerun_backend import ClusterRerun
from pipelines.local import encode_new_items, id_version, input_check, recommend_lists, run
from pipelines.local.pipeline_runner import PIPELINE_YAML
from pipelines.local.rerun_choice import MODES, choose

OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Output folder for everything that the run writes.")
]
# The settings of `macrec recommend`: those that the stage of the same name reads.
LISTS: Final = RECOMMENDER._replace(
    stages=(RECOMMEND,),
    fields={},
    settings={
        n: p for n, p in RECOMMENDER.settings.items() if n.startswith(("recommend.", "lists_"))
    },
)


def run_pipeline(
    *,
    out: OutOption,
    settings: RunOptions,
    previous: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Output folder of an earlier run. The report compares the semantic IDs with it. "
            "quantize.mode=frozen reuses its quantizer.",
        ),
    ] = None,
    containers: ContainerOptions,
) -> None:
    """Run the whole pipeline on this machine.

    Without --store, the artifact store is that of --previous, or OUT/store.
    """
    run.run(run.continue_run(settings.resolve(), previous), out, containers)


def validate(settings: DataOptions) -> None:
    """Check the data, images, encoders and vectors of a run, and list all problems.

    Catalogue and log are required; everything else that is given is checked too.
    """
    input_check.validate(settings.resolve())


def encode_items(
    *,
    previous: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Output folder of the `macrec run` or `macrec encode-items` whose quantizer and "
            "semantic IDs are kept.",
        ),
    ],
    out: OutOption,
    settings: StoredOptions,
) -> None:
    """Assign semantic IDs to new items, and keep all others.

    Without --store, the artifact store is that of --previous.
    """
    version = id_version.read(previous)
    earlier = {**version.settings, "run_previous": str(previous), "run_store": version.store}
    encode_new_items.encode_items(settings.resolve(earlier, ENCODE), out)


def recommend(
    *,
    run: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of a `macrec run`.")],
    to: Annotated[str, typer.Option(metavar="FILE.parquet", help="Parquet file to write.")],
    users: Annotated[str | None, field_option("lists_users", "--users")] = None,
    allowed_items: Annotated[
        str | None, field_option("lists_allowed_items", "--allowed-items")
    ] = None,
    top_k: Annotated[str | None, field_option("lists_top_k", "--top-k")] = None,
    seen_items: Annotated[str | None, field_option("recommend.seen_items", "--seen-items")] = None,
    assignments: SetOption = None,
    store: Annotated[
        str, typer.Option(metavar="URI", help="Artifact store. Default: the store of the run.")
    ] = "",
) -> None:
    """Recommend items for users from a finished run.

    --set takes the settings of the stage recommend, such as recommend.beams=50. All other settings
    are those of the run.
    """
    flags = {
        "lists_users": users,
        "lists_allowed_items": allowed_items,
        LISTS_TOP_K: top_k,
        "recommend.seen_items": seen_items,
    }
    values = read_settings(assignments=assignments).with_flags(flags).resolve(form=LISTS)
    names = {f"lists_{source.name}": source.name for source in RECOMMEND.sources}
    addresses = {source: values[name] for name, source in names.items() if name in values}
    recommend_lists.recommend(run, to, stage_values(values, RECOMMEND), addresses, store)


def rerun_run(
    *,
    run: RunArgument,
    from_stage: Annotated[str, typer.Option("--from", metavar="STAGE", help=MODES["from"])] = "",
    only: Annotated[str, typer.Option(metavar="STAGE", help=MODES["only"])] = "",
    force: Annotated[str, typer.Option(metavar="STAGE", help=MODES["force"])] = "",
    clone: Annotated[
        bool,
        typer.Option(
            "--clone",
            help="On a cluster, start a new run even if the failed run could be retried. The new "
            "run reads the data again.",
        ),
    ] = False,
    wait: WaitOption = False,
    package: PackageOption = PIPELINE_YAML,
    settings: SettingOptions,
    containers: ContainerOptions,
    connection: ConnectionOptions,
) -> None:
    """Run an earlier run, or one stage of it, again.

    Finished stages are reused. Settings on the command line override those of the run.
    """
    choice = choose({"from": from_stage, "only": only, "force": force})
    cluster = ClusterRerun(connection, package, clone, wait)
    rerun(run, choice, settings.resolve, cluster, containers)


def show_status(
    *, run: RunArgument, as_json: JsonOption = False, connection: ConnectionOptions
) -> None:
    """Show the progress of a run by stage."""
    found = status.run_status(run, connection)
    print(status.as_json(found) if as_json else "\n".join(status.lines(found)))
