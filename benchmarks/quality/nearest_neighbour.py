"""Computes HR@10 of a rule without training: the ten nearest neighbours of the last item.

    python benchmarks/quality/nearest_neighbour.py DATA/scientific

The protocol is leave-one-out with full ranking, except for the last item itself. The similarity is
the cosine of the given vectors. The script prints one JSON line per modality.
"""

import json
import sys
from pathlib import Path

import numpy as np

CUTOFF = 10


def hit_rate(vectors_ND: np.ndarray, last_U: np.ndarray, target_U: np.ndarray) -> float:
    """Return the fraction of users whose target is a nearest neighbour of their last item."""
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    similarity_UN = unit_ND[last_U] @ unit_ND.T
    similarity_UN[np.arange(len(last_U)), last_U] = -np.inf
    target_score_U1 = similarity_UN[np.arange(len(target_U)), target_U][:, None]
    return float(((similarity_UN > target_score_U1).sum(1) < CUTOFF).mean())


def main(source: Path) -> None:
    """Print one line per file of vectors."""
    histories = json.loads(next(source.glob("*.inter.json")).read_text()).values()
    last_U = np.array([history[-2] for history in histories])
    target_U = np.array([history[-1] for history in histories])
    for path in sorted(source.glob("*.npy")):
        figure = round(hit_rate(np.load(path), last_U, target_U), 4)
        line = {"benchmark": "nearest_neighbour", "vectors": path.stem, "hr_10": figure}
        print(json.dumps(line | {"users": len(last_U), "dataset": source.name}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
