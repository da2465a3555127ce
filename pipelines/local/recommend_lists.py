"""`macrec recommend`: makes lists for users from the artifacts of a run, on this machine."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.stages import RECOMMEND
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.core.executor import Result
from macrec.core.stage_command import Request, run_request
from pipelines.local import id_version

DATASET = "recommendations"
FILE = f"{DATASET}.parquet"


def recommend(
    run: Path,
    to: str,
    settings: Mapping[str, Any],
    addresses: Mapping[str, str],
    store: str = "",
) -> Result:
    """Run the stage on a run's artifacts and write its dataset as one file.

    Args:
        run: output folder of a `macrec run` that has ended.
        to: path of the Parquet file.
        settings: settings of the stage by its own names; the others are those of the run.
        addresses: addresses of the lists of users and of allowed items, by the stage's own names.
        store: artifact store, which also keeps finished shards; the run's store if empty.

    Raises:
        UserError: if no run has ended there, an artifact is missing, or `to` is not a local
            Parquet file.
    """
    check(
        "://" not in to and to.endswith(".parquet") and not Path(to).is_dir(),
        f"--to {to}: name a file on this machine that ends in .parquet.",
    )
    found = id_version.find_run_artifacts(run, [*(p.name for p in RECOMMEND.artifacts), DATASET])
    earlier = dict(Artifact.open(found.pop(DATASET)).manifest["config"])
    if not earlier.get("top_k"):  # the run skipped the stage
        earlier.pop("top_k", None)
    with tempfile.TemporaryDirectory(prefix="macrec-recommend-") as folder:
        outputs = {DATASET: f"{folder}/{DATASET}"}
        values = {**addresses, "store": store or id_version.read(run).store}
        request = Request({**earlier, **settings}, values, found, outputs, None)
        result = run_request(RECOMMEND, request)
        publish(Path(folder) / DATASET, Path(to))
    print(f"recommendations: {to} ({describe(result.metrics)})")
    return result


def describe(metrics: Mapping[str, float]) -> str:
    """Return the numbers of users and rows as text."""
    return f"{metrics['users']:,.0f} users, {metrics['rows']:,.0f} rows"


def publish(dataset: Path, to: Path) -> None:
    """Write a dataset as one Parquet file, which appears only when it is complete."""
    artifact = Artifact.open(dataset)
    parts = [entry["name"] for entry in artifact.manifest["files"]]
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.{uuid.uuid4().hex}")
    try:
        if len(parts) == 1:
            # A copy instead of a link, so that an edit of the file does not change the artifact.
            shutil.copyfile(artifact.file(parts[0]), partial)
        else:
            with pq.ParquetWriter(partial, artifact.schema, compression="zstd") as writer:
                for batch in artifact.batches():
                    writer.write_batch(batch)
        os.replace(partial, to)
    finally:
        partial.unlink(missing_ok=True)
