"""Adds what histories say of the items to their vectors: co-occurrence as a third view.

    python benchmarks/collaborative.py RUN_OUT OUT [--dim 64] [--weight 1.0] [--window 3]

RUN_OUT is the --out folder of a `macrec run`; its vectors and histories are used. Counts how often
two items stand within `window` places of each other in the training part of a history (all but the
last two items), takes the positive pointwise mutual information and its first singular vectors
(Levy and Goldberg 2014). What ridge regression on the content foretells is mixed in, with
n / (n + 5) for the own vector of an item met n times, so an item without history has one, too. Each
content vector is made of length one and gets the collaborative vector, of length `weight`, at its
end. Writes text_embeddings.parquet and image_embeddings.parquet for `macrec run`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from quantizer import artifact
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from macrec.arrays import embedding_matrix

TRUST = 5.0  # meetings at which an item's own vector counts half


def main() -> None:
    options = _options()
    items = artifact(options.run, "prepare-data", "items").table(["item_id"]).column(0)
    content = {name: _vectors(options.run, name) for name in ("text", "image")}
    counts = _training_pairs(options.run, len(items), options.window)
    behaviour_ND, met_N = _behaviour(counts, options.dim)
    both_NE = np.concatenate(list(content.values()), axis=1)
    seen_N = met_N > 0
    foretold_ND = Ridge(10.0).fit(both_NE[seen_N], behaviour_ND[seen_N]).predict(both_NE)
    trust_N1 = (met_N / (met_N + TRUST))[:, None]
    behaviour_ND = _unit(trust_N1 * behaviour_ND + (1 - trust_N1) * foretold_ND)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, vectors_NE in content.items():
        joined_NE = np.concatenate([vectors_NE, options.weight * behaviour_ND], 1)
        kind = pa.list_(pa.float32(), joined_NE.shape[1])
        column = pa.array(list(joined_NE.astype(np.float32)), kind)
        table = pa.table({"item_id": items, "embedding": column})
        pq.write_table(table, options.out / f"{name}_embeddings.parquet")
    figures = {"items": len(items), "never_met": int((~seen_N).sum()), "pairs": int(counts.nnz)}
    print(json.dumps({"benchmark": "collaborative", "wrote": str(options.out)} | figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--window", type=int, default=3)
    return parser.parse_args()


def _vectors(run: Path, name: str) -> np.ndarray:
    found = artifact(run, f"embed-{name}", f"{name}_embeddings")
    matrix_NE = embedding_matrix(found).astype(np.float64)
    return _unit(matrix_NE - matrix_NE.mean(0))


def _unit(matrix_ND: np.ndarray) -> np.ndarray:
    return matrix_ND / np.linalg.norm(matrix_ND, axis=1, keepdims=True).clip(1e-12)


def _training_pairs(run: Path, items: int, window: int) -> sparse.csr_matrix:
    """How often two items stand near each other, symmetric [N, N]."""
    histories = artifact(run, "prepare-data", "sequences").table(["item_index"]).column(0)
    first: list[int] = []
    second: list[int] = []
    for history in histories.to_pylist():
        training = history[:-2]
        for gap in range(1, window + 1):
            first += training[:-gap]
            second += training[gap:]
    ones = np.ones(len(first))
    counts = sparse.coo_matrix((ones, (first, second)), (items, items)).tocsr()
    return (counts + counts.T).tocsr()


def _behaviour(counts: sparse.csr_matrix, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """First singular vectors of the positive pointwise mutual information, and meetings by item."""
    met_N = np.asarray(counts.sum(1)).ravel()
    table = counts.tocoo()
    expected = met_N[table.row] * met_N[table.col] / met_N.sum()
    table.data = np.log(np.maximum(table.data / expected, 1.0))
    reduced_ND = TruncatedSVD(dim, random_state=0).fit_transform(table.tocsr())
    return _unit(reduced_ND), met_N


if __name__ == "__main__":
    main()
