"""Trains and evaluates the generator on published semantic IDs, at the scale of the paper.

    PYTHONPATH=src:. python benchmarks/quality/instruments.py --data DATA/instruments \\
        --work DIR --results FILE.json [--device cuda] [--tasks seq_text_text,item_text_image] \\
        [--epochs 40] [--minutes 120] [--set NAME=VALUE ...] [--shared-codes] [--only text]

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
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import shared
from benchmarks.data import published
from benchmarks.quality import best_so_far, epoch_plan
from components.evaluate import spec as evaluate
from components.train import generator_training
from components.train import spec as train
from components.train.rows import TASKS
from components.train.state import State
from macrec.compute.device import choose_device
from macrec.core.artifact import Artifact, FolderOutput
from macrec.core.errors import EXIT_PREEMPTED, UserError
from macrec.core.settings import build
from macrec.core.stage_command import read_settings
from macrec.generator.tokens import MODALITIES


def main() -> None:
    options = _options()
    shared.start_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PREEMPTED))
    try:
        result = run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    shared.write_result(options.results, result)
    names = [f"{system}_{m}_10" for system in ("text", "fused", "hybrid") for m in ("hr", "ndcg")]
    shown = {name: result["test"].get(name) for name in names}
    shared.print_line({"benchmark": "instruments", "wrote": str(options.results), **shown})


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole benchmark and return the content of the result file."""
    data = published.write(
        options.data,
        options.work / "data",
        shared_codes=options.shared_codes,
        users=options.users,
        only=options.only,
    )
    config: train.Settings = build(train.Settings, _train_settings(options))
    execution: train.Execution = build(train.Execution, _execution(options))
    plan: dict[str, float] = {}
    if options.minutes:
        plan = epoch_plan.plan(options.work, options.minutes, data, config, execution)
        epochs = min(int(plan["epochs"]), int(options.epochs or plan["epochs"]))
        config = replace(config, epochs=epochs)
    store, timeline = options.work / "store", Timeline(options.work / "timeline.jsonl")
    if options.best_so_far:
        output = FolderOutput(options.work / "best-so-far")
        metrics = best_so_far.write(store, data, config, output)
        recommender = Artifact.open(output.path)
    else:
        inputs = train.Inputs(sequences=data.sequences, semantic_ids=data.semantic_ids)
        with timeline:
            training = shared.run_stage(
                train.STAGE, config, inputs, options.work, execution, store=store
            )
        metrics, recommender = training.metrics, training.artifact("recommender")
    curve = json.loads(recommender.file("history.json").read_text(encoding="utf-8"))
    started = time.monotonic()
    values = read_settings(evaluate.STAGE, shared.read_assignments(options.set_evaluate))
    evaluation: evaluate.Settings = build(evaluate.Settings, values)
    test = _evaluate(options, data, recommender, evaluation, options.work)
    evaluate_seconds = round(time.monotonic() - started, 1)
    published_protocol = replace(evaluation, seen_items="keep")
    folder = options.work / "seen-kept"
    test_seen_kept = _evaluate(options, data, recommender, published_protocol, folder)
    return {
        "benchmark": "instruments",
        "label": options.label,
        "data": data.facts,
        "train_config": asdict(config),
        "evaluate_config": asdict(evaluation),
        "execution": asdict(execution),
        "plan": plan,
        "train_seconds": timeline.seconds,
        "evaluate_seconds": evaluate_seconds,
        "rss_mb": shared.peak_memory_mb(),
        "finished": not options.best_so_far,
        "train": metrics,
        "test": test,
        "test_seen_kept": test_seen_kept,
        "curve": [row | {"seconds": timeline.at.get(row["epoch"])} for row in curve],
        **shared.describe_origin(str(choose_device(options.device))),
    }


def _evaluate(
    options: argparse.Namespace,
    data: published.Published,
    recommender: Artifact,
    config: evaluate.Settings,
    out: Path,
) -> dict[str, float]:
    inputs = evaluate.Inputs(
        items=data.items,
        sequences=data.sequences,
        semantic_ids=data.semantic_ids,
        latents=data.latents,
        quantizer=data.quantizer,
        recommender=recommender,
    )
    execution = build(evaluate.Execution, _execution(options))
    return shared.run_stage(evaluate.STAGE, config, inputs, out, execution).metrics


class Timeline:
    """Records the seconds since the start of the training at the end of each epoch.

    The times are stored in a file. A resumed training continues from the last time and does not
    count the interruption. The block is the training.
    """

    def __init__(self, path: Path) -> None:
        lines = shared.read_lines(path)
        self._path = path
        self._before = max([0.0, *(line["seconds"] for line in lines)])
        self.at: dict[int, float] = {x["epoch"]: x["seconds"] for x in lines if x["epoch"]}
        """Seconds by epoch."""
        self.seconds = self._before
        """Seconds of the whole training so far."""

    def __enter__(self) -> None:
        end_epoch = generator_training._end_epoch

        def record_epoch(state: State, losses: dict[str, float], ndcg: float | None) -> None:
            end_epoch(state, losses, ndcg)
            self.at[state.epoch] = self._record(state.epoch)

        self._started = time.monotonic()
        # history.json has no times, because equal trainings must give equal artifacts.
        self._patch = patch.object(generator_training, "_end_epoch", record_epoch)
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()
        self._record(0)

    def _record(self, epoch: int) -> float:
        self.seconds = round(self._before + time.monotonic() - self._started, 1)
        shared.append_line(self._path, {"epoch": epoch, "seconds": self.seconds})
        return self.seconds


def _train_settings(options: argparse.Namespace) -> dict[str, Any]:
    values = shared.read_assignments(options.set)
    values |= {n: getattr(options, n) for n in ("tasks", "epochs") if getattr(options, n)}
    return read_settings(train.STAGE, values)


def _execution(options: argparse.Namespace) -> dict[str, Any]:
    return {n: getattr(options, n) for n in ("device", "threads", "checkpoint_seconds")}


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--work", type=Path, required=True, help="folder of the artifacts")
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    shared.add_threads_flag(parser)
    parser.add_argument("--tasks", default="", help=f"default: {','.join(TASKS)}")
    parser.add_argument("--epochs", default="", help="maximum at the constant learning rate")
    parser.add_argument("--minutes", type=float, default=0.0, help="limit of the training")
    parser.add_argument("--checkpoint-seconds", type=float, default=300.0)
    parser.add_argument("--best-so-far", action="store_true", help="evaluate the last checkpoint")
    shared.add_settings_flag(parser, "train")
    shared.add_settings_flag(parser, "evaluate", "--set-evaluate")
    parser.add_argument("--shared-codes", action="store_true", help="keep collisions")
    parser.add_argument("--only", choices=MODALITIES, help="use the codes of one modality")
    parser.add_argument("--users", type=int, default=0, help="number of users; 0: all")
    parser.add_argument("--label", default="", help="name of the run in the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
