"""The options that several commands share, and the settings that they give."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from components.run_form import ENCODE, RECOMMENDER, Form, flatten, resolve
from macrec.core.progress import log
from macrec.core.stage_command import split_assignment
from pipelines.cli.option_groups import OptionGroup
from pipelines.cluster.client import ANSWER_SECONDS, TOKEN_VARIABLE, Connection
from pipelines.cluster.submit import EXPERIMENT, ClusterOptions
from pipelines.dag.config_file import read_config
from pipelines.local import containers, images
from pipelines.local.pipeline_runner import PIPELINE_YAML


class SettingSources(NamedTuple):
    """The settings on a command line, by where they stand."""

    configs: list[Path]
    """Config files; later ones override earlier ones."""
    assignments: list[str]
    """NAME=VALUE of each --set; they override everything else."""
    flags: dict[str, Any]
    """Settings by their one name, as flags give them; they override config files."""

    def with_flags(self, flags: Mapping[str, Any]) -> "SettingSources":
        """Return the settings with further flags; a flag that is None was not given."""
        present = {name: value for name, value in flags.items() if value is not None}
        return self._replace(flags={**self.flags, **present})

    def resolve(
        self, earlier: Mapping[str, Any] | None = None, form: Form = RECOMMENDER
    ) -> dict[str, Any]:
        """Return the checked settings by their one name.

        Precedence rises from `earlier` over config files and flags to --set.

        Args:
            earlier: settings of an earlier run.
            form: the run form.

        Raises:
            UserError: if a file, an assignment, a name or a value is invalid.
        """
        values: dict[str, Any] = dict(earlier or {})
        origins: dict[str, str] = {}
        for path in self.configs:
            content = flatten(read_config(path))
            values |= content
            origins |= dict.fromkeys(content, str(path))
        if form is ENCODE:
            # A file may also serve `macrec run`, and so contain settings of other stages.
            unused = [n for n in origins if n in RECOMMENDER.settings and n not in form.settings]
            if unused:
                log.info("the encoding pipeline does not use %s", ", ".join(unused))
            values = {name: value for name, value in values.items() if name not in unused}
        typed = {**self.flags, **dict(split_assignment(text) for text in self.assignments)}
        from_files = {name: path for name, path in origins.items() if name not in typed}
        return resolve(values | typed, form, from_files)


def field_option(name: str, flag: str) -> Any:
    """Return the option that gives a setting; its help text is the setting's description."""
    return typer.Option(
        flag, metavar="VALUE", show_default=False, help=RECOMMENDER.settings[name].doc
    )


ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file with settings, nested by stage. Repeat it for several files; later ones "
        "override earlier ones.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting, such as train.d_model=128. Repeat it for several settings. `macrec "
        "settings` lists all.",
    ),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Output folder of a local run, or a KFP run id.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until the run ends. Exit with 1 if it failed.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
PackageOption = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Compiled pipeline, as `macrec compile` writes it. Default: pipeline.yaml.",
    ),
]


def read_settings(config: ConfigOption = None, assignments: SetOption = None) -> SettingSources:
    """Return the settings from config files and --set."""
    return SettingSources(config or [], assignments or [], {})


SettingOptions = Annotated[SettingSources, OptionGroup(read_settings)]


def read_data_settings(
    *,
    catalog_items: Annotated[str | None, field_option("catalog_items", "--items")] = None,
    catalog_interactions: Annotated[
        str | None, field_option("catalog_interactions", "--interactions")
    ] = None,
    catalog_images: Annotated[str | None, field_option("catalog_images", "--images")] = None,
    encoder_text: Annotated[str | None, field_option("encoder_text", "--encoder-text")] = None,
    encoder_image: Annotated[str | None, field_option("encoder_image", "--encoder-image")] = None,
    vectors_text: Annotated[str | None, field_option("vectors_text", "--vectors-text")] = None,
    vectors_image: Annotated[str | None, field_option("vectors_image", "--vectors-image")] = None,
    settings: SettingOptions,
) -> SettingSources:
    """Return the settings from config files, --set and the flags for data and encoders."""
    flags = {
        "catalog_items": catalog_items,
        "catalog_interactions": catalog_interactions,
        "catalog_images": catalog_images,
        "encoder_text": encoder_text,
        "encoder_image": encoder_image,
        "vectors_text": vectors_text,
        "vectors_image": vectors_image,
    }
    return settings.with_flags(flags)


DataOptions = Annotated[SettingSources, OptionGroup(read_data_settings)]


def read_stored_settings(
    *,
    data: DataOptions,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Artifact store: a local folder, or gs://BUCKET/FOLDER. Results in it are reused.",
        ),
    ] = None,
    cache_salt: Annotated[str | None, field_option("run_cache_salt", "--cache-salt")] = None,
) -> SettingSources:
    """Return the settings of the data, and those of the artifact store."""
    return data.with_flags({"run_store": store, "run_cache_salt": cache_salt})


StoredOptions = Annotated[SettingSources, OptionGroup(read_stored_settings)]


def read_run_settings(
    *,
    stored: StoredOptions,
    preset: Annotated[str | None, field_option("preset", "--preset")] = None,
) -> SettingSources:
    """Return the settings that every run of the whole pipeline accepts."""
    return stored.with_flags({"preset": preset})


RunOptions = Annotated[SettingSources, OptionGroup(read_run_settings)]


def read_containers(
    image: Annotated[
        str | None,
        typer.Option(
            "--containers",
            metavar="[IMAGE]",
            help="Run each stage in a container of this image. Without IMAGE, the cpu image of "
            "the current sources is used.",
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Network of the containers: none, bridge, host or other."
        ),
    ] = "none",
) -> containers.Options | None:
    """Return the settings of the containers; None if the stages run in processes."""
    if image is None:
        return None
    return containers.Options(image or images.reference("cpu"), network)


ContainerOptions = Annotated[containers.Options | None, OptionGroup(read_containers)]


def read_connection(
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="KFP_ENDPOINT",
            help="Address of Kubeflow Pipelines, such as https://HOST/pipeline.",
        ),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="KFP_NAMESPACE",
            help="Profile namespace. Only multi-user Kubeflow has one.",
        ),
    ] = "",
    token_file: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar="KFP_TOKEN_FILE",
            help=f"File with a bearer token. The variable {TOKEN_VARIABLE} may contain the token "
            "instead.",
        ),
    ] = "",
    ca_file: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar="KFP_CA_FILE",
            help="PEM file of the authority that signed the server's certificate.",
        ),
    ] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds to wait for a response.")
    ] = ANSWER_SECONDS,
) -> Connection:
    """Return the address of the backend and how to authenticate."""
    return Connection(endpoint, namespace, token_file, ca_file, timeout)


ConnectionOptions = Annotated[Connection, OptionGroup(read_connection)]


def read_cluster_options(
    *,
    connection: ConnectionOptions,
    experiment: Annotated[
        str,
        typer.Option(
            metavar="NAME", envvar="KFP_EXPERIMENT", help="Experiment that groups the runs."
        ),
    ] = EXPERIMENT,
    package: PackageOption = PIPELINE_YAML,
    service_account: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Kubernetes service account of the pods."),
    ] = None,
) -> ClusterOptions:
    """Return how a run or a schedule starts on a cluster."""
    return ClusterOptions(connection, experiment, package, service_account)


ClusterStartOptions = Annotated[ClusterOptions, OptionGroup(read_cluster_options)]
