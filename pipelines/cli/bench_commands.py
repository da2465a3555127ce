"""The commands `macrec bench` and `macrec tune`.

Each command imports its runner itself: the runner loads torch, and the help must not wait for it.
"""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from components.baselines.entries import MODELS
from pipelines.bench.options import GROUPS, read_options
from pipelines.bench.recipes import RECIPES, SIZES

app = typer.Typer(rich_markup_mode=None)
MODEL_HELP: Final = (
    f"Models and groups of models, separated by commas. Models: {', '.join((*MODELS, *RECIPES))}. "
    f"Groups: {', '.join(GROUPS)}. Models of a group whose vectors the data set lacks are left "
    "out, with a warning."
)
CONFIG_HELP: Final = (
    "YAML file with settings of the data set for our own systems. They override the presets. "
    "Repeat it for several files; later ones override earlier ones. By default the settings of the "
    "run that --dataset names are used, without those that a preset or an ablation decides. The "
    f"sizes ({', '.join(sorted(SIZES))}) are always those of the run."
)
SET_HELP: Final = (
    "A setting of the stage baselines, such as max_history=50, for all models; or "
    "MODEL.NAME=VALUE for one model, such as macrec.train.dropout=0.2. Settings of macrec also "
    "apply to its ablations. A search does not change these settings."
)

DatasetOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Output folder of `macrec run`, whose list is compared too, or of `macrec stage "
        "prepare_data`.",
    ),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for the results. A later call reuses them.")
]
ModelsOption = Annotated[str, typer.Option(metavar="NAME,...", help=MODEL_HELP)]
TrialsOption = Annotated[
    int, typer.Option(help="Number of settings that the search tries for each model.")
]
MinutesOption = Annotated[float, typer.Option(help="Time limit of the search for each model.")]
ConfigOption = Annotated[
    list[Path] | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="[MODEL.]NAME=VALUE", help=SET_HELP)
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
ThreadsOption = Annotated[
    int,
    typer.Option(help="CPU threads of each process. 0: 1 with --jobs above 1, else torch's own."),
]
JobsOption = Annotated[
    int,
    typer.Option(
        help="Number of searches or trainings that run at a time, each in its own process. The "
        "trials of one model run one after the other."
    ),
]


@app.command()
def bench(
    dataset: DatasetOption,
    out: OutOption,
    models: ModelsOption = "all",
    seeds: Annotated[
        int, typer.Option(help="Trainings of each model, with the seeds 0 to SEEDS - 1.")
    ] = 1,
    trials: TrialsOption = 0,
    minutes: MinutesOption = 30.0,
    searched: Annotated[
        Path | None,
        typer.Option(
            metavar="BENCH.json",
            help="Use the settings that the search of an earlier bench chose. --set overrides "
            "them.",
        ),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="List of the run to compare: hybrid, fused, text or image. Default: the first of "
            "these that the run has.",
        ),
    ] = "",
    config: ConfigOption = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    jobs: JobsOption = 1,
) -> None:
    """Compare systems, MACRec and others, on one data set with the same protocol.

    The results are OUT/table.md and OUT/bench.json.
    """
    from pipelines.bench.dataset import open_dataset
    from pipelines.bench.runner import run_bench

    options = read_options(
        out=out,
        models=models,
        seeds=seeds,
        trials=trials,
        minutes=minutes,
        searched=searched,
        configs=config or (),
        assignments=settings or (),
        device=device,
        threads=threads,
        jobs=jobs,
    )
    table = run_bench(options, open_dataset(dataset, system))
    print(table.read_text(), end="")


@app.command()
def tune(
    dataset: DatasetOption,
    out: OutOption,
    models: ModelsOption = "all",
    trials: TrialsOption = 20,
    minutes: MinutesOption = 30.0,
    config: ConfigOption = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    jobs: JobsOption = 1,
) -> None:
    """Search the settings of each system on validation users.

    The results are OUT/trials/MODEL.json. `macrec bench` with the same options reuses them.
    """
    from pipelines.bench.dataset import open_dataset
    from pipelines.bench.runner import run_tune

    options = read_options(
        out=out,
        models=models,
        trials=trials,
        minutes=minutes,
        configs=config or (),
        assignments=settings or (),
        device=device,
        threads=threads,
        jobs=jobs,
    )
    for path in run_tune(options, open_dataset(dataset)):
        content = json.loads(path.read_bytes())
        ndcg = content["best"]["validation_ndcg_10"]
        print(f"{path}: {len(content['trials'])} trials, best validation NDCG@10 {ndcg:.4f}")
