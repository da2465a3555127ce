"""Trains and evaluates the generator on published semantic IDs, at the scale of the paper.

    PYTHONPATH=src:. python benchmarks/instruments.py --data DATA/instruments --work DIR \\
        --results FILE.json [--device cuda] [--tasks seq_text_text,item_text_image] [--epochs 40] \\
        [--minutes 120] [--set NAME=VALUE ...] [--shared-codes] [--only text]

The data set keeps its official order, with a leave-one-out split. Codes that several items share
are made unique by the rule of `published.resolve`; --shared-codes keeps them. The stages train and
evaluate run as in the pipeline, but without kfp and with the artifact store DIR/store.

The same command resumes an interrupted training from the last checkpoint, or reads a finished one.
With --best-so-far it evaluates the best validated weights up to that checkpoint. The fingerprint of
a training includes the code, so a long run needs its own copy of the source tree.

--minutes limits the training by a plan of its epochs (see epoch_plan.py). A resumed run follows the
plan in DIR/plan.json. All choices are made on validation users. The JSON contains the learning
curve with the seconds since the start, all test metrics of the stage evaluate, and the environment.
`test` follows the stage's rule for seen items. `test_seen_kept` follows the published protocol,
whose lists may contain items of the user's history.
"""

import argparse
import json
import logging
import re
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import best_so_far, epoch_plan, machine, published
from components.evaluate import spec as evaluate
from components.run_form import preset_values, stage_values
from components.train import spec as train
from components.train.rows import TASKS
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, HtmlOutput, MarkdownOutput
from macrec.core.errors import EXIT_PREEMPTED, UserError
from macrec.core.executor import execute
from macrec.core.progress import log
from macrec.core.settings import build
from macrec.core.store import ArtifactStore
from macrec.generator.tokens import MODALITIES

EPOCH_LINE = re.compile(r"train: epoch (\d+)\b")


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PREEMPTED))
    try:
        result = run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    names = [f"{system}_{m}_10" for system in ("text", "fused", "hybrid") for m in ("hr", "ndcg")]
    shown = {name: result["test"].get(name) for name in names}
    print(json.dumps({"benchmark": "instruments", "wrote": str(options.results), **shown}))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole benchmark and return the content of the result file."""
    made = published.write(
        options.data,
        options.work / "data",
        shared_codes=options.shared_codes,
        users=options.users,
        only=options.only,
    )
    config: train.Settings = build(
        train.Settings,
        stage_values(preset_values("medium"), train.STAGE) | _train_settings(options),
    )
    execution: train.Execution = build(train.Execution, _execution(options))
    plan: dict[str, float] = {}
    if options.minutes:
        plan = epoch_plan.plan(options.work, options.minutes, made, config, execution)
        epochs = min(int(plan["epochs"]), int(options.epochs or plan["epochs"]))
        config = replace(config, epochs=epochs)
    store = options.work / "store"
    with Timeline(options.work / "timeline.jsonl", going_on=not options.best_so_far) as timeline:
        if options.best_so_far:
            output = FolderOutput(options.work / "best-so-far")
            figures = best_so_far.write(store, made, config, output)
        else:
            output = FolderOutput(options.work / "recommender")
            outputs = train.Outputs(recommender=output)
            inputs = train.Inputs(sequences=made.sequences, semantic_ids=made.semantic_ids)
            keep = ArtifactStore(str(store))
            figures = execute(train.STAGE, config, inputs, outputs, execution, store=keep).metrics
    recommender = Artifact.open(output.path)
    history = json.loads(recommender.file("history.json").read_text(encoding="utf-8"))
    started = time.monotonic()
    evaluation = build(evaluate.Settings, dict(pair.split("=", 1) for pair in options.set_evaluate))
    tested = _evaluate(options, made, recommender, evaluation, options.work)
    seconds = round(time.monotonic() - started, 1)
    published_protocol = replace(evaluation, seen_items="keep")
    apart = options.work / "seen-kept"
    kept = _evaluate(options, made, recommender, published_protocol, apart)
    return {
        "benchmark": "instruments",
        "label": options.label,
        "data": made.facts,
        "train_config": asdict(config),
        "evaluate_config": asdict(evaluation),
        "execution": asdict(execution),
        "plan": plan,
        "train_seconds": timeline.seconds,
        "evaluate_seconds": seconds,
        "rss_mb": machine.rss_mb(),
        "finished": not options.best_so_far,
        "train": figures,
        "test": tested,
        "test_seen_kept": kept,
        "curve": [row | {"seconds": timeline.at.get(row["epoch"])} for row in history],
        **machine.about(_device(options.device)),
    }


def _evaluate(
    options: argparse.Namespace,
    made: published.Published,
    recommender: Artifact,
    config: evaluate.Settings,
    out: Path,
) -> dict[str, float]:
    inputs = evaluate.Inputs(
        items=made.items,
        sequences=made.sequences,
        semantic_ids=made.semantic_ids,
        latents=made.latents,
        quantizer=made.quantizer,
        recommender=recommender,
    )
    outputs = evaluate.Outputs(
        predictions=DatasetOutput(out / "predictions"),
        report=HtmlOutput(out / "report.html"),
        summary=MarkdownOutput(out / "summary.md"),
    )
    execution = build(evaluate.Execution, _execution(options))
    return execute(evaluate.STAGE, config, inputs, outputs, execution).metrics


class Timeline(logging.Handler):
    """Records the seconds since the start of the training at each logged epoch.

    The times are stored in a file. A resumed training continues from the last time and does not
    count the interruption.
    """

    def __init__(self, path: Path, *, going_on: bool) -> None:
        super().__init__()
        self.path, self.going_on, self.at = path, going_on, dict[int, float]()
        self.seconds = self.before = 0.0
        self.started = time.monotonic()

    def __enter__(self) -> "Timeline":
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in map(json.loads, lines):
            self.before = max(self.before, line["seconds"])
            if line["epoch"]:
                self.at[line["epoch"]] = line["seconds"]
        self.seconds, self.started = self.before, time.monotonic()
        if self.going_on:
            log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self.going_on:
            log.removeHandler(self)
            self._keep(0)

    def emit(self, record: logging.LogRecord) -> None:
        if found := EPOCH_LINE.match(record.getMessage()):
            self.at[int(found[1])] = self._keep(int(found[1]))

    def _keep(self, epoch: int) -> float:
        self.seconds = round(self.before + time.monotonic() - self.started, 1)
        with self.path.open("a") as file:
            file.write(json.dumps({"epoch": epoch, "seconds": self.seconds}) + "\n")
        return self.seconds


def _train_settings(options: argparse.Namespace) -> dict[str, str]:
    settings = dict(pair.split("=", 1) for pair in options.set)
    given = {"tasks": options.tasks, "epochs": options.epochs}
    settings |= {name: value for name, value in given.items() if value}
    known = set(train.Settings.__dataclass_fields__)
    if unknown := sorted(set(settings) - known):
        raise UserError(f"--set: {', '.join(unknown)} are no settings of train.")
    return settings


def _execution(options: argparse.Namespace) -> dict[str, Any]:
    given = {"device": options.device, "threads": options.threads}
    return given | {"checkpoint_seconds": options.checkpoint_seconds}


def _device(name: str) -> str:
    from macrec.compute.device import choose_device

    return str(choose_device(name))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--work", type=Path, required=True, help="artifacts, store, plan")
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch decides")
    parser.add_argument("--tasks", default="", help=f"with commas; default {','.join(TASKS)}")
    parser.add_argument("--epochs", default="", help="at the constant rate, at most")
    parser.add_argument("--minutes", type=float, default=0.0, help="for the training; 0: no limit")
    parser.add_argument("--checkpoint-seconds", type=float, default=300.0)
    parser.add_argument("--best-so-far", action="store_true", help="evaluate the last checkpoint")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of train")
    parser.add_argument("--set-evaluate", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--shared-codes", action="store_true", help="leave published codes shared")
    parser.add_argument("--only", choices=MODALITIES, help="as if the other had no codes")
    parser.add_argument("--users", type=int, default=0, help="the first so many; 0: all")
    parser.add_argument("--label", default="", help="name of the run in the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
