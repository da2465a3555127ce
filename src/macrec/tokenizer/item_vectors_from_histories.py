"""Append history vectors of items to their text or image vectors.

Text and image describe an item itself. A history vector describes which items occur near it in
users' histories. The stage embed_histories computes history vectors for the items that occur in
histories. For other items, such as new ones, ridge regression predicts the vector from the content.
An item that occurs n times gets a mixture, in which its own vector has the weight n / (n + TRUST).
The vectors are saved with the quantizer. So an item has the same vector whenever it is encoded,
even if the interaction log has changed.

Shape suffixes: N items, B rows of a chunk, K items that occur in histories, E components of a
content vector, C components of all content vectors together, H components of a history vector.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import Ridge

from macrec.core.artifact import Artifact
from macrec.core.errors import UserError, check
from macrec.data.columns import vector_column
from macrec.data.vectors import ItemVectors, JoinedRows, read_vectors

TRUST = 5.0
"""Number of occurrences at which an item's own vector weighs as much as the predicted one."""
RIDGE = 10.0
"""Ridge penalty; content vectors have length 1 on average."""
FITTED = 32_768
"""Maximum number of items that the regression is fitted to."""
CHUNK = 8_192
VECTORS, MAP = "histories.parquet", "histories.safetensors"
Content = Mapping[str, ItemVectors]
"""Content vectors by modality; row k of each is item k."""
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
pc: Any = pyarrow.compute  # its functions are created at import, so type checkers cannot see them


class Scale(NamedTuple):
    """Mean and length of a modality's content vectors."""

    mean_E: Floats
    length: float
    """Root mean square length after the mean is subtracted."""


class HistoryPredictor(NamedTuple):
    """Ridge regression from an item's content vectors to its history vector."""

    scales: dict[str, Scale]
    coefficient_CH: Floats
    intercept_H: Floats

    def __call__(self, content: Content, rows_B: Ints) -> Floats:
        """Predict the history vectors [B, H] of the given items from their content."""
        return _features(content, self.scales, rows_B) @ self.coefficient_CH + self.intercept_H


class Histories(NamedTuple):
    """The history vectors of a catalogue, and the regression that predicts those of other items."""

    weight: float
    """Length of a history vector; a content vector has length 1 on average."""
    predictor: HistoryPredictor
    item_ids: pa.Array
    """Ids of the items that occur in histories."""
    vector_KH: Floats
    """History vectors of these items, of length 1."""

    @property
    def dim(self) -> int:
        """Number of components of a history vector, H."""
        return self.vector_KH.shape[1]

    def vectors(self, content: Content, item_ids: pa.Array) -> Floats:
        """Return the history vectors [N, H] of any items.

        Known ids have their saved vector. The vectors of other items are predicted.
        """
        known_N = np.asarray(pc.index_in(item_ids, value_set=self.item_ids).fill_null(-1))
        vector_NH = np.empty((len(item_ids), self.dim), np.float32)
        for rows_B in _chunks(np.flatnonzero(known_N < 0)):
            vector_NH[rows_B] = _unit(self.predictor(content, rows_B))
        vector_NH[known_N >= 0] = self.vector_KH[known_N[known_N >= 0]]
        return vector_NH

    def join(self, content: Content, item_ids: pa.Array) -> dict[str, ItemVectors]:
        """Scale each modality's vectors to an average length of 1 and append the history vectors.

        Vectors in memory stay in memory. Vectors on disk are joined as they are read.
        """
        history_NH = self.vectors(content, item_ids) * np.float32(self.weight)
        joined: dict[str, ItemVectors] = {}
        for name, (matrix_NE, present_N) in content.items():
            rows = JoinedRows(matrix_NE, 1 / self.predictor.scales[name].length, history_NH)
            in_memory = isinstance(matrix_NE, np.ndarray)
            joined[name] = ItemVectors(rows[:] if in_memory else rows, present_N)
        return joined

    def save(self, folder: Path) -> None:
        """Write histories.parquet (item_id, vector) and histories.safetensors."""
        vectors = vector_column(self.vector_KH, np.ones(len(self.vector_KH), bool))
        pq.write_table(pa.table({"item_id": self.item_ids, "vector": vectors}), folder / VECTORS)
        tensors: dict[str, np.ndarray] = {
            "weight": np.array([self.weight]),
            "coefficient": np.ascontiguousarray(self.predictor.coefficient_CH),
            "intercept": self.predictor.intercept_H,
        }
        for name, (mean_E, length) in self.predictor.scales.items():
            tensors |= {f"mean.{name}": mean_E, f"length.{name}": np.array([length])}
        save_file(tensors, folder / MAP)


def load_histories(quantizer: Artifact) -> Histories | None:
    """Load what `Histories.save` wrote into a quantizer's folder.

    Returns None if the quantizer uses content alone.

    Raises:
        UserError: a file is damaged.
    """
    if not quantizer.has(MAP):
        return None
    try:
        tensors = load_file(quantizer.file(MAP))
        table = pq.read_table(quantizer.file(VECTORS))
        # The coefficients follow the order of MODALITIES.
        scales = {
            name: Scale(tensors[f"mean.{name}"], float(tensors[f"length.{name}"][0]))
            for name in ("text", "image")
            if f"mean.{name}" in tensors
        }
        intercept_H = tensors["intercept"]
        predictor = HistoryPredictor(scales, tensors["coefficient"], intercept_H)
        flat = table.column("vector").combine_chunks().flatten().to_numpy()
        vector_KH = flat.reshape(-1, len(intercept_H))
        item_ids = table.column("item_id").combine_chunks()
        return Histories(float(tensors["weight"][0]), predictor, item_ids, vector_KH)
    except (OSError, ValueError, LookupError, pa.ArrowException, SafetensorError) as error:
        raise UserError(
            f"{quantizer.path}: its histories cannot be read ({error}); run the quantize stage "
            "again"
        ) from error


def count_items_in_histories(quantizer: Artifact) -> int:
    """Return how many items have their own history vector in a quantizer's folder."""
    if not quantizer.has(VECTORS):
        return 0
    return int(pq.read_metadata(quantizer.file(VECTORS)).num_rows)


def fit_histories(content: Content, embeddings: Artifact, weight: float) -> Histories:
    """Fit the regression on items of histories, and mix its predictions into their vectors.

    Args:
        content: vectors of every modality that gets codes.
        embeddings: history_embeddings of the same items; only some items have a vector.
        weight: see `Histories`.

    Raises:
        UserError: the vectors of a modality are all equal or not finite.
    """
    own = read_vectors(embeddings)
    columns = embeddings.table(["item_id", "met"]).combine_chunks()
    rows_K = np.flatnonzero(own.present_N)
    scales = {name: _scale(name, vectors) for name, vectors in content.items()}
    fitted_K = np.sort(np.random.default_rng(0).permutation(rows_K)[:FITTED])
    ridge = Ridge(RIDGE).fit(_features(content, scales, fitted_K), own.matrix_NE[fitted_K])
    # With a single target component, scikit-learn returns the coefficients as a vector.
    coefficient_CH = np.atleast_2d(ridge.coef_).T.astype(np.float32)
    predictor = HistoryPredictor(
        scales, coefficient_CH, np.atleast_1d(ridge.intercept_).astype("f4")
    )
    vector_KH = own.matrix_NE[rows_K]
    met_K = columns["met"].to_numpy()[rows_K]
    for place_B in _chunks(np.arange(len(rows_K))):
        share_B1 = (met_K[place_B] / (met_K[place_B] + TRUST))[:, None]
        foretold_BH = predictor(content, rows_K[place_B])
        vector_KH[place_B] = _unit(share_B1 * vector_KH[place_B] + (1 - share_B1) * foretold_BH)
    item_ids = columns["item_id"].combine_chunks().take(pa.array(rows_K))
    return Histories(weight, predictor, item_ids, vector_KH)


def _scale(name: str, vectors: ItemVectors) -> Scale:
    matrix_NE, present_N = vectors
    total_E, squares = np.zeros(matrix_NE.shape[1]), 0.0
    rows_K = np.flatnonzero(present_N)
    for rows_B in _chunks(rows_K):
        chunk_BE = matrix_NE[rows_B].astype(np.float64)
        total_E += chunk_BE.sum(0)
        squares += float((chunk_BE**2).sum())
    mean_E = total_E / len(rows_K)
    variance = squares / len(rows_K) - float(mean_E @ mean_E)
    check(
        bool(np.isfinite(variance)) and variance > 0,
        f"{name}_embeddings: the {len(rows_K):,} vectors have variance {variance}; "
        "they must be finite and must differ from each other.",
    )
    return Scale(mean_E.astype(np.float32), float(np.sqrt(variance)))


def _features(content: Content, scales: Mapping[str, Scale], rows_B: Ints) -> Floats:
    """Return the regression's inputs [B, C]; a missing modality is replaced by its mean."""
    parts: list[Floats] = []
    for name, (mean_E, length) in scales.items():
        matrix_NE, present_N = content[name]
        centred_BE = (matrix_NE[rows_B].astype(np.float32) - mean_E) / np.float32(length)
        parts.append(np.where(present_N[rows_B][:, None], centred_BE, np.float32(0)))
    return np.concatenate(parts, axis=1)


def _unit(vector_BH: np.ndarray) -> Floats:
    length_B1 = np.linalg.norm(vector_BH, axis=1, keepdims=True)
    return (vector_BH / length_B1.clip(1e-12)).astype(np.float32)


def _chunks(rows_K: Ints) -> Iterator[Ints]:
    for start in range(0, len(rows_K), CHUNK):
        yield rows_K[start : start + CHUNK]
