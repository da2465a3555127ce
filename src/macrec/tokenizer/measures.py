"""Measure a tokenizer: codebook usage, collisions, preserved neighbourhoods, agreement.

Shapes: N items, L levels, M codewords per level, E embedding size; R rows with codes, Q queries,
K neighbours, S sizes. Levels are counted from 0, prefix lengths from 1.
A row of codes that contains -1 is an item without the modality. It is never counted.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from macrec.data.vectors import Rows

Ints = NDArray[np.int64]
Codes = NDArray[np.integer]

CHUNK_BYTES: Final = 1 << 26
"""Embeddings or similarities in memory at once: 64 MiB of float32."""


class LevelUsage(NamedTuple):
    """How evenly the codewords of one level are used."""

    utilisation: float
    """Share of the codewords that at least one item uses."""
    perplexity: float
    """exp of the entropy of the codes in nats: the effective number of codewords."""
    gini: float
    """Gini coefficient of the items per codeword, unused codewords included. 0 means even use;
    1 - 1/M means all items have one codeword."""
    largest_share: float
    """Share of the items that have the most frequent codeword."""


def has_codes(codes_NL: Codes) -> NDArray[np.bool_]:
    """Return which rows contain codes, bool [N]."""
    return (codes_NL >= 0).all(1) & (codes_NL.shape[1] > 0)


def level_usage(codes_NL: Codes, codebook_size: int) -> list[LevelUsage]:
    """Return the usage of every level; all zeros if no item has codes."""
    present_NL = codes_NL[has_codes(codes_NL)]
    return [_usage(codes_N, codebook_size) for codes_N in present_NL.T]


def _usage(codes_N: Codes, codebook_size: int) -> LevelUsage:
    if not len(codes_N):
        return LevelUsage(0.0, 0.0, 0.0, 0.0)
    share_M = np.sort(np.bincount(codes_N, minlength=codebook_size)) / len(codes_N)
    share = share_M[share_M > 0]
    rank_M = np.arange(1, len(share_M) + 1)
    return LevelUsage(
        utilisation=len(share) / codebook_size,
        perplexity=float(np.exp(-(share * np.log(share)).sum())),
        gini=float((2 * rank_M - len(share_M) - 1) @ share_M) / len(share_M),
        largest_share=float(share.max()),
    )


def collision_rate(codes_NL: Codes) -> float:
    """Return the share of items that have to move: 1 - unique codes / items, as in the papers."""
    items = int(has_codes(codes_NL).sum())
    return 1 - int(group_sizes(codes_NL).sum()) / items if items else 0.0


def shared_code_share(codes_NL: Codes) -> float:
    """Return the share of items whose full code another item also has."""
    groups_S = group_sizes(codes_NL)
    items_S = groups_S * np.arange(len(groups_S))
    return float(items_S[2:].sum() / items_S.sum()) if items_S.any() else 0.0


def group_sizes(codes_NL: Codes) -> Ints:
    """Return the histogram [S] of collisions: entry s counts the codes of exactly s items."""
    present_NL = codes_NL[has_codes(codes_NL)]
    if not len(present_NL):
        return np.zeros(1, np.int64)
    return np.bincount(np.bincount(prefix_groups(present_NL)[-1]))


def prefix_groups(codes_NL: Codes) -> Ints:
    """Return group numbers [L, N], from 0: row l groups items by their first l + 1 codes."""
    groups_LN = np.zeros(codes_NL.shape[::-1], np.int64)
    group_N = np.zeros(len(codes_NL), np.int64)
    span = int(codes_NL.max(initial=0)) + 1
    for level, codes_N in enumerate(codes_NL.T):
        # Groups are renumbered at every level, so the keys never overflow.
        group_N = np.unique(group_N * span + codes_N, return_inverse=True)[1]
        groups_LN[level] = group_N
    return groups_LN


class Agreement(NamedTuple):
    """How well an item's text code predicts its image code, at one level."""

    mutual: float
    """Normalised mutual information, 0..1. Many small clusters raise it by chance, so compare it
    only between codes of the same size over the same catalogue."""
    adjusted: float
    """The same, adjusted for chance: 0 for unrelated codes of any number, 1 for equal
    partitions."""


def code_agreement(
    text_codes_NL: Codes, image_codes_NL: Codes, items: int = 100_000, seed: int = 0
) -> list[Agreement]:
    """Return the agreement of every level over the items with both codes; empty without such items.

    If there are more than `items` of them, a random sample is used. The adjusted measure takes
    longer with more items (5 s per level at 100,000 items and 256 codewords).

    A level with only one codeword in use carries no information about the other modality and
    scores 0. The usual definition gives 1 for two such levels. Source: Vinh, Epps and Bailey 2010,
    arithmetic mean of the entropies.
    """
    if text_codes_NL.shape != image_codes_NL.shape:
        return []
    rows_R = np.flatnonzero(has_codes(text_codes_NL) & has_codes(image_codes_NL))
    if not len(rows_R):
        return []
    if len(rows_R) > items:
        rows_R = np.random.default_rng(seed).choice(rows_R, items, replace=False)
    found: list[Agreement] = []
    for text_R, image_R in zip(text_codes_NL[rows_R].T, image_codes_NL[rows_R].T, strict=True):
        if min(len(np.unique(text_R)), len(np.unique(image_R))) == 1:
            found.append(Agreement(0.0, 0.0))
            continue
        mutual = float(normalized_mutual_info_score(text_R, image_R))
        found.append(Agreement(mutual, float(adjusted_mutual_info_score(text_R, image_R))))
    return found


class Preservation(NamedTuple):
    """How well prefixes of one length preserve the neighbourhoods of the embedding space."""

    recall: float
    """Mean share of an item's nearest neighbours that have its prefix."""
    candidates: float
    """Mean share of all other items that have its prefix: the recall expected by chance."""


def neighbourhood_preservation(
    embedding_NE: Rows,
    codes_NL: Codes,
    neighbours: int = 10,
    queries: int = 2000,
    seed: int = 0,
) -> list[Preservation]:
    """Return the preservation by the first 1, 2, ... L codes; empty with fewer than two items.

    Neighbours are ranked by cosine after the mean is subtracted, without the item itself. They are
    computed for at most `queries` random items, among all items. The matrix may be stored on disk,
    in any float type. It is read twice, in slices of at most CHUNK_BYTES.
    """
    rows_R = np.flatnonzero(has_codes(codes_NL))
    if len(rows_R) < 2:
        return []
    groups_LN = np.full(codes_NL.shape[::-1], -1, np.int64)
    groups_LN[:, rows_R] = prefix_groups(codes_NL[rows_R])
    generator = np.random.default_rng(seed)
    query_Q = np.sort(generator.choice(rows_R, min(queries, len(rows_R)), replace=False))
    nearest_QK = _nearest(embedding_NE, rows_R, query_Q, min(neighbours, len(rows_R) - 1))
    found: list[Preservation] = []
    for group_N in groups_LN:
        size_Q = np.bincount(group_N[rows_R])[group_N[query_Q]]
        recall = (group_N[nearest_QK] == group_N[query_Q, None]).mean()
        candidates = (size_Q - 1).mean() / (len(rows_R) - 1)
        found.append(Preservation(float(recall), float(candidates)))
    return found


def _nearest(embedding_NE: Rows, rows_R: Ints, query_Q: Ints, neighbours: int) -> Ints:
    """Return the rows [Q, K] of the nearest neighbours of each query, unordered."""
    width = max(embedding_NE.shape[1], len(query_Q))
    chunks = np.array_split(rows_R, -(-len(rows_R) * width * 4 // CHUNK_BYTES))
    total_E = np.zeros(embedding_NE.shape[1])
    for rows in chunks:
        total_E += embedding_NE[rows].sum(0, dtype=np.float64)
    mean_E = (total_E / len(rows_R)).astype(np.float32)

    def unit(rows: Ints) -> NDArray[np.float32]:
        centred_RE = embedding_NE[rows].astype(np.float32) - mean_E
        norm_R1 = np.linalg.norm(centred_RE, axis=1, keepdims=True)
        return centred_RE / np.maximum(norm_R1, np.finfo(np.float32).tiny)

    unit_QE = unit(query_Q)
    best_QK = np.full((len(query_Q), 0), -np.inf, np.float32)
    nearest_QK = np.zeros((len(query_Q), 0), np.int64)
    for rows in chunks:
        cosine_QR = unit_QE @ unit(rows).T
        cosine_QR[query_Q[:, None] == rows] = -np.inf
        top_QK = _largest(cosine_QR, neighbours)
        best_QK = np.hstack([best_QK, np.take_along_axis(cosine_QR, top_QK, axis=1)])
        nearest_QK = np.hstack([nearest_QK, rows[top_QK]])
        top_QK = _largest(best_QK, neighbours)
        best_QK = np.take_along_axis(best_QK, top_QK, axis=1)
        nearest_QK = np.take_along_axis(nearest_QK, top_QK, axis=1)
    return nearest_QK


def _largest(score_QR: NDArray[np.float32], count: int) -> Ints:
    """Return the columns of the `count` largest scores of each row, unordered.

    Returns all columns if there are fewer than `count`.
    """
    count = min(count, score_QR.shape[1])
    return np.argpartition(score_QR, -count, axis=1)[:, -count:]


def measure_tokenizer(
    codes: Mapping[str, Codes],
    codebook_size: int,
    embeddings: Mapping[str, Rows] | None = None,
    unexplained: Mapping[str, Sequence[float]] | None = None,
    queries: int = 2000,
) -> dict[str, float]:
    """Return all measures of this module by name, as the metrics of a stage; all are finite.

    Per modality and level, from 0: text_utilisation_0, text_perplexity_0, text_gini_0,
    text_largest_bucket_0. For the full codes: text_collision_rate, text_shared_code_share. Per
    prefix length, from 1: text_recall_1, text_candidates_1. For both modalities together, per
    level: agreement_0, agreement_adjusted_0.

    Args:
        codes: [N, L] by modality; one modality is enough.
        codebook_size: codewords per level.
        embeddings: [N, E] by modality; without them, recall is not computed.
        unexplained: by modality, the share of the variance that the codes up to each level do not
            explain; returned as text_unexplained_variance_0 and so on.
        queries: see `neighbourhood_preservation`.
    """
    figures: dict[str, float] = {}
    for modality, codes_NL in codes.items():
        if not has_codes(codes_NL).any():
            continue
        for level, usage in enumerate(level_usage(codes_NL, codebook_size)):
            figures[f"{modality}_utilisation_{level}"] = usage.utilisation
            figures[f"{modality}_perplexity_{level}"] = usage.perplexity
            figures[f"{modality}_gini_{level}"] = usage.gini
            figures[f"{modality}_largest_bucket_{level}"] = usage.largest_share
        figures[f"{modality}_collision_rate"] = collision_rate(codes_NL)
        figures[f"{modality}_shared_code_share"] = shared_code_share(codes_NL)
        for level, share in enumerate((unexplained or {}).get(modality, ())):
            figures[f"{modality}_unexplained_variance_{level}"] = float(share)
        if embeddings and modality in embeddings:
            kept = neighbourhood_preservation(embeddings[modality], codes_NL, queries=queries)
            for depth, (recall, candidates) in enumerate(kept, 1):
                figures[f"{modality}_recall_{depth}"] = recall
                figures[f"{modality}_candidates_{depth}"] = candidates
    if "text" in codes and "image" in codes:
        for level, agreement in enumerate(code_agreement(codes["text"], codes["image"])):
            figures[f"agreement_{level}"] = agreement.mutual
            figures[f"agreement_adjusted_{level}"] = agreement.adjusted
    return figures
