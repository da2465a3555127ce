"""`macrec run` and `macrec validate`: runs the whole DAG, or checks its input, on this machine."""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.stages import PREPARE_DATA
from macrec.core.artifact import write_atomically
from macrec.core.errors import UserError
from macrec.core.parameters import build
from macrec.core.progress import log
from macrec.core.stage_command import source
from pipelines.dag.run_form import PREFIXES, SOURCES
from pipelines.local import containers, id_version, pipeline_runner, recommend_lists, run_record
from pipelines.local.pipeline_runner import LocalRun, StageFailed

SYSTEMS = {
    "popular": "most popular",
    "text": "text only",
    "image": "image only",
    "fused": "fused",
    "hybrid": "hybrid",
}
MODALITIES = ("text", "image")
RESULTS = {"report": "report.html", "summary": "summary.md"}
# Artifact that later commands read -> stage that makes it.
LEFT = {
    "items": "prepare_data",
    "sequences": "prepare_data",
    "semantic_ids": "resolve_collisions",
    "latents": "quantize",
    "quantizer": "quantize",
    "recommender": "train",
    "predictions": "evaluate",
    "recommendations": "recommend",
}


def run(
    values: Mapping[str, Any], out: Path, in_containers: containers.Options | None = None
) -> LocalRun:
    """Run the DAG, print a summary, and copy the results to the top of the output folder.

    Args:
        values: resolved run parameters (`pipelines.dag.run_form.resolve`).
        out: output folder. It gets runs/ (the artifacts of each run), store/ (unless `values` name
            another), report.html, summary.md, recommendations.parquet, metrics.json and
            version.json.
        in_containers: settings of the containers; None runs the stages in processes.
    """
    record, arguments = run_stages(values, out, in_containers=in_containers)
    _publish(record, arguments, out)
    for line in summary(record, out):
        print(line)
    return record


def carried_on(values: Mapping[str, Any], previous: Path | None) -> dict[str, Any]:
    """Return the run parameters, where missing ones are the artifacts and store of an earlier run.

    Raises:
        UserError: if no run has ended in that folder.
    """
    if previous is None:
        return dict(values)
    before = id_version.read(previous)
    carried = {"store": before.store, **before.artifacts}
    return {**values, **{n: v for n, v in carried.items() if not values.get(n)}}


def run_stages(
    values: Mapping[str, Any],
    out: Path,
    yaml: Path = pipeline_runner.PIPELINE_YAML,
    in_containers: containers.Options | None = None,
) -> tuple[LocalRun, dict[str, Any]]:
    """Run a compiled pipeline; return its record and the arguments that were passed to it.

    If a stage fails, the process ends with the stage's exit code.

    Raises:
        UserError: if data or models are missing or contradict each other, no container engine
            responds, or the engine does not have the image.
    """
    if problems := source_problems(values):
        raise UserError("\n  ".join(problems))
    for modality in MODALITIES:
        if not any(values.get(name) for name in _vectors(modality)):
            log.info("run without %s vectors: no --%s-model, no --%s-embeddings", *3 * [modality])
    out.mkdir(parents=True, exist_ok=True)
    arguments = {**values, "store": values.get("store") or str((out / "store").resolve())}
    arguments = absolute_sources(arguments)
    name = "recommender" if yaml == pipeline_runner.PIPELINE_YAML else "encode"
    launch = pipeline_runner.in_process
    if in_containers:
        launch = containers.of_run(in_containers, arguments, out)
    try:
        with run_record.kept(out, name, arguments):
            return pipeline_runner.run_pipeline(
                arguments, out / run_record.RUNS, yaml, launch
            ), arguments
    except StageFailed as failed:
        kept = "what was finished is kept: mend the cause, then `macrec rerun"
        print(f"\n{failed}; {kept} {out}`", file=sys.stderr)
        sys.exit(failed.code)


def absolute_sources(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run parameters with absolute paths, because stages may have another folder."""
    result = dict(values)
    for name in SOURCES.values():
        uri = str(values.get(name, ""))
        if uri and "://" not in uri and not uri.startswith("hub:"):
            result[name] = str(Path(uri).resolve())
    return result


def validate(values: Mapping[str, Any]) -> None:
    """Check the catalogue and the interactions as a run would, and print the result.

    Raises:
        UserError: if the input has problems; one message lists all of them.
    """
    from components.prepare_data import validation

    prefix = PREFIXES["prepare_data"]
    settings = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
    config = build(PREPARE_DATA.settings, settings)
    with tempfile.TemporaryDirectory() as cache:
        paths: list[Path] = []
        for name in ("items", "interactions"):
            found = source(values[SOURCES[name]], cache=Path(cache))
            assert found is not None
            paths.append(found.path())
        report = validation.validate(config, *paths)
        report.checked()
        for line in report.lines():
            print(line)


def _vectors(modality: str) -> tuple[str, str]:
    """Return the two run parameters that can provide a modality's vectors."""
    return f"{modality}_model", f"{modality}_embeddings"


def source_problems(values: Mapping[str, Any]) -> list[str]:
    """Return the problems of data and models that can be found without running a stage."""
    problems = [
        f"{name}={uri}: no such file or folder."
        for name in SOURCES.values()
        if (uri := str(values.get(name, "")))
        and "://" not in uri
        and not uri.startswith("hub:")
        and not Path(uri).exists()
    ]
    given = {m: [n for n in _vectors(m) if values.get(n)] for m in MODALITIES}
    problems += [
        f"give --{m}-model (an encoder) or --{m}-embeddings (ready vectors), not both."
        for m, names in given.items()
        if len(names) > 1
    ]
    coded = str(values.get("quantizer_modalities", "both"))
    wanted = MODALITIES if coded == "both" else (coded,)
    if not any(given[modality] for modality in wanted):
        flags = " or ".join(f"--{m}-model or --{m}-embeddings" for m in wanted)
        problems.append(f"no vectors to quantize (quantizer_modalities={coded}): give {flags}.")
    if values.get("quantizer_mode") == "frozen" and not values.get("previous_quantizer"):
        problems.append("quantizer_mode=frozen: give --previous, the output folder of a run.")
    if values.get("image_model") and not values.get("catalog_images"):
        problems.append("--image-model needs --images, the folder of the pictures.")
    return problems


def _publish(record: LocalRun, arguments: Mapping[str, Any], out: Path) -> None:
    folder = record.stage("evaluate").folder
    for name, target in RESULTS.items():
        # A copy instead of a link, because a browser uses the suffix of the link's target.
        write_atomically(out / target, (folder / name).read_bytes())
    metrics = {s.stage: s.metrics for s in record.stages}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    artifacts = {name: record.stage(maker).folder / name for name, maker in LEFT.items()}
    recommend_lists.publish(artifacts["recommendations"], out / recommend_lists.FILE)
    id_version.write(out, artifacts, arguments)


def summary(record: LocalRun, out: Path) -> Iterator[str]:
    """Yield the lines of the summary that is printed at the end of a run."""
    yield ""
    yield from _systems(record.stage("evaluate").metrics)
    yield ""
    resolved = record.stage("resolve_collisions").metrics
    quantized = record.stage("quantize").metrics
    for modality in MODALITIES:
        if not resolved.get(f"{modality}_items"):
            continue
        levels = sorted(n for n in quantized if n.startswith(f"{modality}_perplexity_"))
        use = ", ".join(f"{quantized[n]:.0f}" for n in levels)
        before = resolved[f"{modality}_collision_rate_before"]
        after = resolved[f"{modality}_collision_rate_after"]
        yield (
            f"{modality} codes: collisions {before:.1%}, resolved to {after:.1%}; "
            f"perplexity per level {use}"
        )
    yield from _churn(record.stage("evaluate").metrics)
    yield ""
    yield from timings(record)
    yield ""
    lists = recommend_lists.describe(record.stage("recommend").metrics)
    yield f"recommendations: {(out / recommend_lists.FILE).resolve()} ({lists})"
    yield f"report: {(out / RESULTS['report']).resolve()}"


def _churn(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield lines about the changes since the earlier version of the IDs, if there is one."""
    # Imported here because it imports torch, which the command line does not need otherwise.
    from macrec.tokenizer.churn import Churn

    for modality in MODALITIES:
        if f"{modality}_churn" in metrics:
            counts = {name: metrics[f"{modality}_ids_{name}"] for name in Churn._fields}
            told = ", ".join(f"{count:,.0f} {name}" for name, count in counts.items())
            churn = metrics[f"{modality}_churn"]
            yield f"{modality} IDs since the earlier run: {told}; churn {churn:.2%}"


def timings(record: LocalRun) -> Iterator[str]:
    """Yield the time of each stage and whether it was computed or reused."""
    for stage_run in record.stages:
        state = "reused" if stage_run.reused else "computed"
        yield f"{stage_run.stage:<20}{stage_run.seconds:8.1f} s  {state}"
    yield f"{'total':<20}{sum(s.seconds for s in record.stages):8.1f} s"


def _systems(metrics: Mapping[str, float]) -> Iterator[str]:
    columns = ("hr_1", "hr_5", "hr_10", "ndcg_5", "ndcg_10", "coverage_10")
    yield f"{'':<14}" + "".join(f"{c.upper().replace('_', '@'):>13}" for c in columns)
    for system, label in SYSTEMS.items():
        if f"{system}_hr_10" in metrics:
            figures = "".join(f"{metrics[f'{system}_{c}']:>13.4f}" for c in columns)
            yield f"{label:<14}" + figures
    chance = metrics["random_hr_10"]
    yield f"random{'':<34}{chance:>13.4f}   ({metrics['users']:,.0f} test users)"
