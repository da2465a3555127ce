"""Compares the prefix lift of semantic IDs with the scores of finished runs.

    PYTHONPATH=src:. python benchmarks/quality/lift.py OUT [OUT ...]

OUT is the output folder of a `macrec run`. The benchmark shows whether the cheap measure predicts
the scores. There is one JSON line per run and modality. It contains the lift, its standard error
and the fraction of pairs that share the prefix, by prefix length. They are computed on training
pairs and on validation pairs, for the quantized codes ("before") and for the final codes. The line
also contains HR@10 and NDCG@10 of the modality on test users. Complete final codes have lift 1,
because they are unique.

With several runs on one data set (five lines or more), further lines contain rank correlations
(Spearman) of each lift with HR@10 and NDCG@10. They are computed for each modality and over both.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks import shared
from macrec.data.columns import codes_matrix
from macrec.tokenizer.prefix_lift import consecutive_pairs, prefix_lift


def lines(out: Path) -> Iterator[dict[str, object]]:
    """Yield one line per modality that has codes."""
    metrics = json.loads((out / "metrics.json").read_text())["evaluate"]
    codes = {
        "before": shared.latest_artifact(out, "quantize", "latents"),
        "final": shared.latest_artifact(out, "resolve-collisions", "semantic_ids"),
    }
    sequences = shared.latest_artifact(out, "prepare-data", "sequences")
    lists = sequences.table(["item_index"]).column(0).combine_chunks()
    item_K = lists.flatten().to_numpy()
    offset_U1 = np.append(0, np.cumsum(lists.value_lengths().to_numpy()))
    for modality in ("text", "image"):
        figures: dict[str, object] = {"benchmark": "lift", "run": out.name, "modality": modality}
        for state, artifact in codes.items():
            codes_NL = codes_matrix(artifact, f"{modality}_codes")
            for part in ("training", "validation"):
                lifts = prefix_lift(codes_NL, consecutive_pairs(item_K, offset_U1, part))
                figures[f"{part}_{state}"] = [round(lift.lift, 3) for lift in lifts]
                figures[f"{part}_{state}_error"] = [round(lift.error, 3) for lift in lifts]
                figures[f"{part}_{state}_rate"] = [round(lift.rate, 5) for lift in lifts]
        scores = {name: metrics.get(f"{modality}_{name}") for name in ("hr_10", "ndcg_10")}
        if figures["training_final"]:
            yield figures | scores


def correlations(lines: list[dict[str, Any]]) -> Iterator[dict[str, object]]:
    """Yield the rank correlations of the final codes' lift with the scores of the runs."""
    for modality in ("text", "image", "both"):
        rows = [row for row in lines if modality in ("both", row["modality"])]
        line: dict[str, object] = {
            "benchmark": "lift",
            "correlation": modality,
            "points": len(rows),
        }
        for part in ("training", "validation"):
            for depth in range(min(len(row[f"{part}_final"]) for row in rows) - 1):
                lifts = [row[f"{part}_final"][depth] for row in rows]
                for score in ("hr_10", "ndcg_10"):
                    correlation = spearmanr(lifts, [row[score] for row in rows])
                    rho = float(correlation[0])  # pyright: ignore[reportArgumentType]
                    line[f"{part}_lift_{depth + 1}_{score}"] = round(rho, 3)
        yield line


def main() -> None:
    results: list[dict[str, Any]] = []
    for folder in sys.argv[1:]:
        for line in lines(Path(folder)):
            results.append(line)
            shared.print_line(line)
    if len(results) > 4:
        for line in correlations(results):
            shared.print_line(line)


if __name__ == "__main__":
    main()
