"""The `macrec` command."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.run_form import ENCODE, RECOMMENDER, Form, flatten, resolve
from components.stages import STAGES, stage_named
from macrec.core.errors import UserError
from macrec.core.stage_command import run_guarded
from pipelines.cli import settings_page
from pipelines.dag.config_file import read_config
from pipelines.local import containers, images, recommend_lists

EXIT_READER_GONE = 141  # the shell's exit code for a process that SIGPIPE ended


def main(argv: list[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    The codes are 0, 2 (user error), 75 (try again), 141 (the reader of the output has gone) and
    143 (preempted).
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["stage"] and len(argv) > 1 and not argv[1].startswith("-"):
        _stage(argv[1], argv[2:])
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        code = run_guarded(lambda: options.call(options))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_READER_GONE
    sys.exit(code)


def _stage(name: str, argv: list[str]) -> None:
    from macrec.core import stage_command

    try:
        stage = stage_named(name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    stage_command.main(stage, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="macrec", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the whole DAG on this machine")
    _add_data_flags(run)
    run.add_argument("--out", type=Path, required=True, help="folder for everything the run makes")
    run.add_argument("--preset", help="settings to start from; see `macrec settings`")
    run.add_argument(
        "--previous",
        type=Path,
        help="output folder of an earlier run: the report shows the churn, and "
        "quantizer_mode=frozen keeps its IDs",
    )
    run.add_argument(
        "--store", help="artifact store (default: that of --previous, without one OUT/store)"
    )
    run.add_argument("--cache-salt", help="any new text recomputes every stage")
    containers.add_flags(run)
    run.set_defaults(call=_run)

    _add_backend_commands(commands)

    encode = commands.add_parser("encode-items", help="give IDs to new items, keep all others")
    _add_data_flags(encode)
    encode.add_argument(
        "--previous",
        type=Path,
        required=True,
        help="output folder of the `run` or `encode-items` whose IDs and quantizer are kept",
    )
    encode.add_argument("--out", type=Path, required=True, help="folder for the next version")
    encode.add_argument("--store", help="artifact store (default: that of the earlier run)")
    encode.add_argument("--cache-salt", help="any new text recomputes every stage")
    encode.set_defaults(call=_encode_items)

    recommend_ = commands.add_parser("recommend", help="best items for users, from an ended run")
    recommend_.add_argument("run", type=Path, help="output folder of the `run`")
    recommend_.add_argument("--to", required=True, help="Parquet file to write")
    recommend_.add_argument("--store", default="", help="artifact store (default: the run's)")
    recommend_lists.add_flags(recommend_)
    recommend_.set_defaults(call=_recommend)

    compare = commands.add_parser("compare", help="test whether one run is better than another")
    compare.add_argument("run_a", metavar="RUN_A", help="a `run`'s output folder, or A1,A2,...")
    compare.add_argument("run_b", metavar="RUN_B", help="what it is compared with, likewise")
    compare.add_argument("--system", default="fused", help="whose lists; of A and of B: text,fused")
    compare.add_argument("--metric", action="append", default=[], help="e.g. ndcg_10; repeated")
    compare.add_argument("--json", action="store_true", help="print JSON instead of a table")
    compare.set_defaults(call=_compare)

    _add_bench_commands(commands)

    validate = commands.add_parser("validate", help="check catalogue and log, all problems at once")
    _add_data_flags(validate)
    validate.set_defaults(call=_validate)

    stage = commands.add_parser("stage", help="run one stage: macrec stage NAME --help")
    stage.add_argument("name", choices=[stage.name for stage in STAGES], help="the stage")
    stage.set_defaults(call=lambda o: _stage(o.name, []))

    inspect = commands.add_parser("inspect", help="show an artifact: what, from what, three rows")
    inspect.add_argument("path", type=Path, help="artifact folder, or a folder of artifacts")
    inspect.set_defaults(call=_inspect)

    sample = commands.add_parser("sample", help="make the sample catalogue with a known answer")
    sample.add_argument("--out", type=Path, required=True, help="folder for the catalogue")
    sample.add_argument("--seed", type=int, default=7, help="another seed, another catalogue")
    sample.add_argument("--encoders", type=Path, help="also prepare the sample encoders there")
    sample.add_argument("--tiny-encoders", type=Path, help="also make tiny random ones there")
    sample.set_defaults(call=_sample)

    compile_ = commands.add_parser("compile", help="compile a DAG: pipeline.yaml, encode.yaml")
    compile_.add_argument("--pipeline", choices=("recommender", "encode"), default="recommender")
    compile_.add_argument("--out", type=Path, help="target file (default: as above)")
    compile_.add_argument("--cpu-image", help="image of the CPU stages (default: images.lock)")
    compile_.add_argument("--gpu-image", help="image of the GPU stages (default: images.lock)")
    compile_.add_argument(
        "--embedding-shards",
        type=int,
        default=1,
        help="tasks that share the embedding of a modality",
    )
    compile_.add_argument(
        "--resources",
        type=Path,
        metavar="FILE",
        help="YAML of CPU and memory by stage: requests and limits (see docs/operations.md)",
    )
    compile_.set_defaults(call=_compile)

    lint = commands.add_parser("lint", help="check a compiled pipeline, all problems at once")
    lint.add_argument("file", nargs="?", type=Path, default=Path("pipeline.yaml"), help="the file")
    lint.add_argument("--digests", action="store_true", help="refuse images named by a tag")
    lint.set_defaults(call=_lint)

    images_ = commands.add_parser("images", help="the container images: build, push, lock")
    images.add_commands(images_)
    images_.set_defaults(call=images.run)

    from pipelines.local import gc as collect

    gc = commands.add_parser("gc", help="remove from a store or a run's folder what nothing names")
    collect.add_flags(gc)
    gc.set_defaults(call=collect.collect)

    contract = commands.add_parser("contract", help="write data_contract.md")
    contract.add_argument("--out", type=Path, default=Path("docs"), help="folder")
    contract.set_defaults(call=_contract)

    settings = commands.add_parser("settings", help="list settings with defaults and ranges")
    settings.add_argument("stage", nargs="?", help="the stage (default: the run form)")
    settings.add_argument("--schema", action="store_true", help="write a JSON schema instead")
    settings.set_defaults(call=_settings)
    return parser


def _add_backend_commands(commands: Any) -> None:
    from pipelines.cluster import client, rerun, schedule, submit

    submit_ = commands.add_parser("submit", help="start a run on Kubeflow Pipelines")
    submit.add_flags(submit_)
    submit.add_wait_flag(submit_)
    submit_.add_argument("--run-name", help="its name in the UI (default: pipeline and time)")
    _add_data_flags(submit_)
    submit_.set_defaults(call=_submit)

    schedule_ = commands.add_parser("schedule", help="make or replace a schedule of runs there")
    schedule.add_flags(schedule_)
    submit.add_flags(schedule_)
    _add_data_flags(schedule_)
    schedule_.set_defaults(call=_schedule)

    rerun_ = commands.add_parser("rerun", help="run an earlier run, or one stage of it, again")
    rerun.add_flags(rerun_)
    submit.add_package_flag(rerun_)
    submit.add_wait_flag(rerun_)
    client.add_flags(rerun_)
    _add_setting_flags(rerun_)
    rerun_.set_defaults(call=_rerun)

    status = commands.add_parser("status", help="how far a run came, stage by stage")
    status.add_argument("run", metavar="RUN", help="output folder of a run here, or a KFP run id")
    status.add_argument("--json", action="store_true", help="print JSON instead of a table")
    client.add_flags(status)
    status.set_defaults(call=_status)


def _add_bench_commands(commands: Any) -> None:
    from pipelines.bench import runner

    bench_ = commands.add_parser("bench", help="compare systems, ours and others, on one data set")
    runner.add_flags(bench_)
    bench_.set_defaults(call=runner.run_bench)

    tune = commands.add_parser("tune", help="search the systems' settings, on validation alone")
    runner.add_flags(tune, search_alone=True)
    tune.set_defaults(call=runner.run_tune)


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    known = RECOMMENDER.settings
    names = [name for name in RECOMMENDER.sources if not name.startswith("lists_")]
    flags = {name.removeprefix("catalog_").replace("_", "-"): name for name in names}
    for flag, name in flags.items():
        text = known[name].doc.replace("%", "%%")
        parser.add_argument(f"--{flag}", dest=name, metavar="VALUE", help=text)
    _add_setting_flags(parser)


def _add_setting_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action="append",
        type=Path,
        default=[],
        help="YAML of parameters; repeated, the later one wins",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one parameter; see `parameters`",
    )


def _given(
    options: argparse.Namespace,
    earlier: Mapping[str, object] | None = None,
    form: Form = RECOMMENDER,
) -> dict[str, object]:
    """Return the run parameters that the command line gives.

    Precedence rises from `earlier` over config files in their order and flags to --set.

    Args:
        options: parsed command line.
        earlier: run parameters of an earlier run.
        form: the run form.

    Raises:
        UserError: if an assignment, a name or a value is invalid.
    """
    values: dict[str, object] = dict(earlier or {})
    origins: dict[str, str] = {}
    for path in options.config:
        content = flatten(read_config(path))
        values |= content
        origins |= dict.fromkeys(content, str(path))
    typed = {n: v for n, v in vars(options).items() if n in form.fields and v is not None}
    for flag, name in (("store", "run_store"), ("cache_salt", "run_cache_salt")):
        if getattr(options, flag, None):
            typed[name] = getattr(options, flag)
    for assignment in options.set:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write NAME=VALUE.")
        typed[name] = value
    from_files = {name: path for name, path in origins.items() if name not in typed}
    return resolve(values | typed, form, from_files)


def _run(options: argparse.Namespace) -> None:
    from pipelines.local.run import carried_on, run

    values = carried_on(_given(options), options.previous)
    run(values, options.out, containers.given(options))


def _submit(options: argparse.Namespace) -> None:
    from pipelines.cluster.submit import submit

    submit(options, _given(options))


def _schedule(options: argparse.Namespace) -> None:
    from pipelines.cluster.schedule import schedule

    schedule(options, lambda: _given(options))


def _rerun(options: argparse.Namespace) -> None:
    from pipelines.cluster.rerun import rerun

    rerun(options, lambda earlier, form: _given(options, earlier, form))


def _status(options: argparse.Namespace) -> None:
    from pipelines.cluster.status import status

    status(options)


def _encode_items(options: argparse.Namespace) -> None:
    from pipelines.local import id_version
    from pipelines.local.encode_new_items import encode_items

    before = id_version.read(options.previous)
    earlier = {**before.settings, "run_previous": str(options.previous), "run_store": before.store}
    encode_items(_given(options, earlier, ENCODE), options.out)


def _recommend(options: argparse.Namespace) -> None:
    recommend_lists.recommend(
        options.run, recommend_lists.given(options), options.to, options.store
    )


def _compare(options: argparse.Namespace) -> None:
    from pipelines.cli.compare import as_json, compare_runs, lines

    found = compare_runs(options.run_a, options.run_b, options.system, options.metric)
    print(as_json(found) if options.json else "\n".join(lines(found)))


def _validate(options: argparse.Namespace) -> None:
    from pipelines.local.run import validate

    validate(_given(options))


def _inspect(options: argparse.Namespace) -> None:
    from pipelines.cli.inspect_artifact import describe

    for line in describe(options.path):
        print(line)


def _sample(options: argparse.Namespace) -> None:
    from macrec.compute.device import silence_progress_bars
    from macrec.sample import sample_catalogue as sample
    from macrec.sample import sample_encoders

    if options.encoders or options.tiny_encoders:
        silence_progress_bars()
    sample.make_sample(options.out, seed=options.seed)
    print(f"sample catalogue: {options.out}")
    if options.encoders:
        encoders = sample_encoders.prepare_sample_encoders(options.encoders)
        print(f"sample encoders: {encoders.text}, {encoders.image}")
    if options.tiny_encoders:
        encoders = sample_encoders.make_tiny_encoders(options.tiny_encoders, seed=options.seed)
        print(f"tiny encoders: {encoders.text}, {encoders.image}")


def _compile(options: argparse.Namespace) -> None:
    from pipelines.dag.compile import compiled, locked_images, write_components

    locked = locked_images()
    given = {p: i for p in locked if (i := getattr(options, f"{p}_image"))}
    images.check_lock({p: i for p, i in locked.items() if p not in given})
    default = "encode.yaml" if options.pipeline == "encode" else "pipeline.yaml"
    out = options.out or Path(default)
    out.write_text(
        compiled(locked | given, options.pipeline, options.embedding_shards, options.resources)
    )
    print(f"wrote {out}")
    if options.out is None and options.pipeline == "recommender":
        write_components(locked | given)
        print("wrote components/*/component.yaml")


def _lint(options: argparse.Namespace) -> None:
    from pipelines.dag.policy import lint

    print(lint(options.file, options.digests))


def _contract(options: argparse.Namespace) -> None:
    from pipelines.cli import contract

    path = options.out / "data_contract.md"
    path.write_text("\n".join(contract.lines()) + "\n")
    print(f"wrote {path}")


def _settings(options: argparse.Namespace) -> None:
    if options.schema:
        print(json.dumps(settings_page.schema(), indent=1))
    elif options.stage:
        print("\n".join(settings_page.list_settings(stage_named(options.stage))))
    else:
        print("\n".join(settings_page.list_fields()))


if __name__ == "__main__":
    main()
