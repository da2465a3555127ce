"""`macrec encode-items`: assigns semantic IDs to a changed catalogue, on this machine."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.check_run.earlier_run import find_earlier_artifacts
from components.run_form import ENCODE, MODALITIES
from macrec.core.artifact import MANIFEST
from pipelines.dag.compile import compile_pipeline
from pipelines.local import containers, id_version
from pipelines.local.pipeline_runner import LocalRun
from pipelines.local.run import run_stages, timings

QUANTIZER = "quantizer"


def encode_items(
    values: Mapping[str, Any], out: Path, in_containers: containers.Options | None = None
) -> LocalRun:
    """Run the encoding pipeline, then print the changes and the path of the new semantic IDs.

    Args:
        values: checked settings by their one name; those that the pipeline does not have are
            ignored.
        out: output folder. It gets runs/ (the artifacts of each run), quantizer/, version.json and
            metrics.json. quantizer/ is a copy, so that later versions need only this folder.
        in_containers: settings of the containers; None runs the stages in processes.
    """
    known = {name: value for name, value in values.items() if name in ENCODE.settings}
    with tempfile.TemporaryDirectory(prefix="macrec-") as folder:
        yaml = Path(folder) / "encode.yaml"
        yaml.write_text(compile_pipeline(name="encode"))
        record, settled = run_stages(known, out, yaml, in_containers, ENCODE)
    _publish(record, settled, out)
    for line in summary(record):
        print(line)
    return record


def _publish(record: LocalRun, values: Mapping[str, Any], out: Path) -> None:
    quantizer = Path(find_earlier_artifacts(str(values["run_previous"]))[QUANTIZER])
    folder = record.stage("encode_items").folder
    copy = out / QUANTIZER
    if not copy.exists() or not quantizer.samefile(copy):
        shutil.rmtree(copy, ignore_errors=True)
        # The manifest is copied last. copyfile does not copy the mode: the originals are read-only.
        leave_out = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(quantizer, copy, ignore=leave_out, copy_function=shutil.copyfile)
        shutil.copyfile(quantizer / MANIFEST, copy / MANIFEST)
    made = {name: folder / name for name in ("semantic_ids", "latents")}
    id_version.write(out, {**made, QUANTIZER: copy}, values)
    metrics = {s.stage: s.metrics for s in record.stages}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")


def summary(record: LocalRun) -> Iterator[str]:
    """Yield lines about the changes of the items and their IDs, the timings, and the output."""
    encoded = record.stage("encode_items")
    counts = {name: f"{value:,.0f}" for name, value in encoded.metrics.items()}
    yield ""
    yield f"{counts['items']} items: {counts['new']} new, {counts['removed']} removed"
    columns = ("items", "kept", "new", "changed", "lost", "moved")
    yield f"{'':<14}" + "".join(f"{column:>10}" for column in (*columns, "churn"))
    for modality in MODALITIES:
        if f"{modality}_items" in counts:
            figures = "".join(f"{counts[f'{modality}_{column}']:>10}" for column in columns)
            churn = encoded.metrics[f"{modality}_churn"]
            yield f"{modality + ' codes':<14}{figures}{churn:>10.2%}"
    yield ""
    yield from timings(record)
    yield ""
    yield f"semantic IDs: {(encoded.folder / 'semantic_ids').resolve()}"
