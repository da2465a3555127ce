"""`macrec run`: runs the whole DAG on this machine."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.run_form import (
    MODALITIES,
    RECOMMENDER,
    Form,
    form_arguments,
    vector_fields,
)
from macrec.core.artifact import write_atomically
from macrec.core.progress import log
from pipelines.local import containers, id_version, pipeline_runner, recommend_lists, run_record
from pipelines.local.input_check import check_run_input
from pipelines.local.pipeline_runner import LocalRun, StageFailed

SYSTEMS = {
    "popular": "most popular",
    "text": "text only",
    "image": "image only",
    "fused": "fused",
    "hybrid": "hybrid",
}
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
        values: checked settings by their one name (`components.run_form.resolve`).
        out: output folder. It gets runs/ (the artifacts of each run), store/ (unless `values` name
            another), report.html, summary.md, recommendations.parquet, metrics.json and
            version.json.
        in_containers: settings of the containers; None runs the stages in processes.
    """
    record, settled = run_stages(values, out, in_containers=in_containers)
    _publish(record, settled, out)
    for line in summary(record, out):
        print(line)
    return record


def continue_run(values: Mapping[str, Any], previous: Path | None) -> dict[str, Any]:
    """Return the settings of a run that continues an earlier one and, by default, uses its store.

    Raises:
        UserError: if no run has ended in that folder.
    """
    if previous is None:
        return dict(values)
    store = values.get("run_store") or id_version.read(previous).store
    return {**values, "run_previous": str(previous), "run_store": store}


def run_stages(
    values: Mapping[str, Any],
    out: Path,
    yaml: Path = pipeline_runner.PIPELINE_YAML,
    in_containers: containers.Options | None = None,
    form: Form = RECOMMENDER,
) -> tuple[LocalRun, dict[str, Any]]:
    """Run a compiled pipeline; return its record and the settings that it ran with.

    If a stage fails, the process ends with the stage's exit code.

    Raises:
        UserError: if data or models are missing, unsuitable or contradict each other, no container
            engine responds, or the engine does not have the image.
    """
    check_run_input(values, form)
    for modality in MODALITIES:
        if not any(values.get(name) for name in vector_fields(modality)):
            names = " or ".join(vector_fields(modality))
            log.info("the run has no %s vectors, because no %s is given", modality, names)
    out.mkdir(parents=True, exist_ok=True)
    store = values.get("run_store") or str((out / "store").resolve())
    settled = absolute_sources({**values, "run_store": store})
    launch = pipeline_runner.in_process
    if in_containers:
        launch = containers.of_run(in_containers, settled, out)
    try:
        with run_record.record_run(out, form.pipeline, settled):
            arguments = form_arguments(settled)
            record = pipeline_runner.run_pipeline(arguments, out / run_record.RUNS, yaml, launch)
            return record, settled
    except StageFailed as failed:
        remedy = f"Correct the cause, then `macrec rerun {out}`. Finished stages are reused."
        print(f"\n{failed}. {remedy}", file=sys.stderr)
        sys.exit(failed.code)


def absolute_sources(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with absolute paths, because stages may have another folder."""
    result = dict(values)
    for name in (*RECOMMENDER.sources, "run_previous"):
        uri = str(values.get(name, ""))
        if uri and "://" not in uri and not uri.startswith("hub:"):
            result[name] = str(Path(uri).resolve())
    return result


def _publish(record: LocalRun, values: Mapping[str, Any], out: Path) -> None:
    folder = record.stage("evaluate").folder
    for name, target in RESULTS.items():
        # A copy instead of a link, because a browser uses the suffix of the link's target.
        write_atomically(out / target, (folder / name).read_bytes())
    metrics = {s.stage: s.metrics for s in record.stages}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    artifacts = {name: record.stage(maker).folder / name for name, maker in LEFT.items()}
    recommend_lists.publish(artifacts["recommendations"], out / recommend_lists.FILE)
    id_version.write(out, artifacts, values)


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
            changes = ", ".join(f"{count:,.0f} {name}" for name, count in counts.items())
            churn = metrics[f"{modality}_churn"]
            yield f"{modality} IDs since the earlier run: {changes}; churn {churn:.2%}"


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
