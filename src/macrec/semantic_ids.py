"""Semantic IDs: measures of a set of codes, and the resolution of collisions.

N items, L levels, M codewords per level, D latent dimension; R rows, G groups, S sizes.
A row of codes that holds -1 is an item without the modality: it is passed through, never counted.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macrec.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK_CELLS = 1 << 21  # rows x M distances held at once: 16 MiB, so time and not memory grows


class LevelStatistics(NamedTuple):
    """How evenly the codewords of one level are used."""

    utilisation: float
    """share of the codewords that at least one item uses"""
    perplexity: float
    """exp of the entropy of the codes in nats: the number of codewords in even use"""
    largest_share: float
    """share of the items that the most frequent codeword holds"""


class Resolved(NamedTuple):
    """Unique codes, and how they differ from the codes before."""

    codes: NDArray[np.int32]
    """[N, L]; no two rows are equal, but for rows of -1"""
    moved_level: NDArray[np.int8]
    """[N]; first level whose code changed, -1 where none did"""
    displacement: NDArray[np.float32]
    """[N]; distance between the decoded vectors (sums of codewords) before and after"""


def code_statistics(codes_NL: NDArray[np.integer], codebook_size: int) -> list[LevelStatistics]:
    """Utilisation, perplexity and largest share of every level; zeros if there is no item."""
    present_NL = codes_NL[_present(codes_NL)]
    return [_level_statistics(codes_N, codebook_size) for codes_N in present_NL.T]


def _level_statistics(codes_N: NDArray[np.integer], codebook_size: int) -> LevelStatistics:
    if not len(codes_N):
        return LevelStatistics(0.0, 0.0, 0.0)
    counts_M = np.bincount(codes_N, minlength=codebook_size)
    share = counts_M[counts_M > 0] / len(codes_N)
    return LevelStatistics(
        utilisation=len(share) / codebook_size,
        perplexity=float(np.exp(-(share * np.log(share)).sum())),
        largest_share=float(share.max()),
    )


def collision_rate(codes_NL: NDArray[np.integer]) -> float:
    """Share of items that have to move, 1 - unique / items, as the literature reports it."""
    items = int(_present(codes_NL).sum())
    return 1 - int(group_sizes(codes_NL).sum()) / items if items else 0.0


def group_sizes(codes_NL: NDArray[np.integer]) -> Ints:
    """Histogram [S] of collisions: entry s is the number of codes that exactly s items have."""
    present_NL = codes_NL[_present(codes_NL)]
    if not len(present_NL):
        return np.zeros(1, np.int64)
    keys_N = _keys(present_NL, int(present_NL.max()) + 1)
    return np.bincount(np.unique(keys_N, return_counts=True)[1])


def _present(codes_NL: NDArray[np.integer]) -> NDArray[np.bool_]:
    return (codes_NL >= 0).all(1) & (codes_NL.shape[1] > 0)


def resolve_collisions(
    codes_NL: NDArray[np.integer],
    latents_ND: NDArray[np.floating],
    codebooks_LMD: NDArray[np.floating],
    item_ids: Sequence[str],
) -> Resolved:
    """Makes the codes unique while moving items as little as possible (MACRec, section 4).

    Of the items with one code, the closest to its codeword keeps it; ties go by item id. The
    others take a free codeword of the last level under the same prefix, nearest first: the pair of
    item and codeword at the smallest distance is settled first. When a prefix has more items than
    free codewords, the closest stay, and the rest changes the level above, then every level below,
    each time on the residual of the new prefix.

    Items with distinct codes never move, so resolving twice changes nothing. The order of the rows
    does not matter. Time O(N log N), plus M x D for each moved item and level chosen anew.

    Args:
        codes_NL: codes in [0, M), or -1 in every level of an item without the modality.
        latents_ND: encoder outputs, finite where there are codes.
        codebooks_LMD: codewords of every level.
        item_ids: distinct identifiers that break ties.

    Raises:
        UserError: more items than codes, codes outside the codebooks, or numbers not finite.
    """
    present_N = _check(codes_NL, latents_ND, codebooks_LMD)
    # Everything below runs in the order of item ids: results and ties cannot depend on the rows.
    order_N = np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), np.int64)
    rows_R = order_N[present_N[order_N]]
    resolved_NL = codes_NL.astype(np.int32)
    if len(rows_R):
        resolver = _Resolver(codes_NL[rows_R], latents_ND[rows_R], codebooks_LMD)
        resolved_NL[rows_R] = resolver.settle_all()
    assert collision_rate(resolved_NL) == 0, "codes are not unique"
    return _compare(codes_NL, resolved_NL, codebooks_LMD)


def _compare(
    before_NL: NDArray[np.integer], after_NL: NDArray[np.int32], codebooks_LMD: NDArray[np.floating]
) -> Resolved:
    changed_NL = before_NL != after_NL
    rows = np.flatnonzero(changed_NL.any(1))
    moved_N = np.full(len(after_NL), -1, np.int8)
    displacement_N = np.zeros(len(after_NL), np.float32)
    if len(rows):
        moved_N[rows] = changed_NL[rows].argmax(1)
        shift_RD = _decode(after_NL[rows], codebooks_LMD) - _decode(before_NL[rows], codebooks_LMD)
        displacement_N[rows] = np.sqrt((shift_RD**2).sum(1))
    return Resolved(after_NL, moved_N, displacement_N)


def _check(
    codes_NL: NDArray[np.integer],
    latents_ND: NDArray[np.floating],
    codebooks_LMD: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """Which items have codes, once everything about the input is known to be sound."""
    levels, size, _ = codebooks_LMD.shape
    present_N = _present(codes_NL)
    items = int(present_N.sum())
    problems: list[str] = []
    if items and codes_NL.shape[1] != levels:
        problems.append(f"codes have {codes_NL.shape[1]} levels, the codebooks {levels}")
    if items > size**levels:
        problems.append(
            f"{items:,} items but only {size**levels:,} codes ({levels} levels of {size} "
            "codewords); quantize with more levels or larger codebooks"
        )
    outside_N = ((codes_NL >= size) | (codes_NL < 0)).any(1) & (codes_NL >= 0).any(1)
    if outside_N.any():
        problems.append(f"{int(outside_N.sum()):,} items have codes outside 0..{size - 1}")
    broken = int((~np.isfinite(latents_ND[present_N]).all(1)).sum())
    if broken:
        problems.append(f"{broken:,} of {items:,} latents are not finite; retrain the quantizer")
    if not np.isfinite(codebooks_LMD).all():
        problems.append("the codebooks are not finite; retrain the quantizer")
    if problems:
        raise UserError(f"cannot resolve collisions: {'; '.join(problems)}.")
    return present_N


class _Resolver:
    """The codes being resolved; rows are the items with codes, in the order of their ids."""

    def __init__(
        self,
        codes_RL: NDArray[np.integer],
        latents_RD: NDArray[np.floating],
        codebooks_LMD: NDArray[np.floating],
    ) -> None:
        self.codes_RL = codes_RL.astype(np.int64)
        self.latents_RD, self.codebooks_LMD = latents_RD, codebooks_LMD
        self.levels, self.size, _ = codebooks_LMD.shape
        self._taken = np.zeros(0, np.int64)  # sorted keys of the codes that are settled

    def settle_all(self) -> Ints:
        """Settles the keepers, then the others from the last level upwards; returns the codes."""
        keys_R = _keys(self.codes_RL, self.size)
        self._taken = np.unique(keys_R)
        rows, distance = self._colliding(keys_R)
        order = np.lexsort((rows, distance, keys_R[rows]))
        order = order[_rank_in_run(keys_R[rows][order]) > 0]  # the first of each code keeps it
        rows, distance = rows[order], distance[order]
        for level in reversed(range(self.levels)):
            prefix = _keys(self.codes_RL[rows, :level], self.size)
            order = np.lexsort((rows, distance, prefix))
            rows, distance, prefix = rows[order], distance[order], prefix[order]
            groups, group = np.unique(prefix, return_inverse=True)
            room = self._room(groups, level)
            stays = _rank_in_run(prefix) < room[group]
            for start, stop in _blocks(prefix[stays], max(1, BLOCK_CELLS // self.size)):
                self._settle(np.sort(rows[stays][start:stop]), level)
            rows, distance = rows[~stays], distance[~stays]
        assert not len(rows), "the check let more items through than there are codes"
        return self.codes_RL

    def _colliding(self, keys_R: Ints) -> tuple[Ints, Floats]:
        """Items that share their code, and the squared distance of each to its codeword."""
        _, inverse, counts = np.unique(keys_R, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[inverse] > 1)
        return rows, (self._residual(rows, self.levels) ** 2).sum(1)

    def _settle(self, rows: Ints, level: int) -> None:
        """Chooses the codes of these items from `level` down; their prefixes have room for them."""
        for child_level in range(level, self.levels):
            prefix = _keys(self.codes_RL[rows, :child_level], self.size)
            groups, group = np.unique(prefix, return_inverse=True)
            children_GM = groups[:, None] * self.size + np.arange(self.size)
            room_GM = self._room(children_GM, child_level + 1)
            # The prefix may just have changed, so its residual is taken anew.
            distance_RM = _squared_distances(
                self._residual(rows, child_level), self.codebooks_LMD[child_level]
            )
            self.codes_RL[rows, child_level] = _assign(distance_RM, group, room_GM)
        self._taken = np.sort(np.append(self._taken, _keys(self.codes_RL[rows], self.size)))

    def _room(self, prefixes: Ints, level: int) -> Ints:
        """Number of free codes below each prefix of `level` codes; any shape."""
        span = self.size ** (self.levels - level)
        first = np.searchsorted(self._taken, prefixes * span)
        return span - (np.searchsorted(self._taken, (prefixes + 1) * span) - first)

    def _residual(self, rows: Ints, level: int) -> Floats:
        """What the codewords above `level` leave of each latent, [R, D]."""
        decoded_RD = _decode(self.codes_RL[rows, :level], self.codebooks_LMD)
        return self.latents_RD[rows] - decoded_RD


def _assign(distance_RM: Floats, group_R: Ints, room_GM: Ints) -> Ints:
    """A codeword for each item: within a group the smallest distance first, up to the room.

    Deferred acceptance: an item asks for its nearest codeword that has not refused it, and a
    codeword keeps the nearest that ask. Both sides rank by one distance, so the outcome is that of
    settling the pairs from the smallest distance up.
    """
    distance_RM = np.where(room_GM[group_R] > 0, distance_RM, np.inf)
    choice_R = distance_RM.argmin(1)
    active = np.arange(len(choice_R))
    while len(active):
        choice, group = choice_R[active], group_R[active]
        slot = group * room_GM.shape[1] + choice
        order = np.lexsort((distance_RM[active, choice], slot))  # stable: ties go by item id
        refused = np.empty(len(active), bool)
        refused[order] = _rank_in_run(slot[order]) >= room_GM[group, choice][order]
        rows = active[refused]
        distance_RM[rows, choice_R[rows]] = np.inf
        choice_R[rows] = distance_RM[rows].argmin(1)
        active = active[np.isin(group, group[refused])]
    return choice_R


def _keys(codes_RL: NDArray[np.integer], size: int) -> Ints:
    """One integer per row of codes, in the order of the codes: the codes as digits in base M."""
    if size ** codes_RL.shape[1] > 2**62:
        raise UserError(
            f"{codes_RL.shape[1]} levels of {size} codewords are more than 2^62 codes. "
            "Quantize with fewer levels."
        )
    keys_R = np.zeros(len(codes_RL), np.int64)
    for codes_R in codes_RL.T:
        keys_R = keys_R * size + codes_R
    return keys_R


def _decode(codes_RL: NDArray[np.integer], codebooks_LMD: NDArray[np.floating]) -> Floats:
    """Sum of the codewords of each row, [R, D]."""
    decoded_RD = np.zeros((len(codes_RL), codebooks_LMD.shape[2]))
    for codes_R, codebook_MD in zip(codes_RL.T, codebooks_LMD, strict=False):
        decoded_RD += codebook_MD[codes_R]
    return decoded_RD


def _squared_distances(residual_RD: Floats, codebook_MD: NDArray[np.floating]) -> Floats:
    """Squared Euclidean distances [R, M].

    Dimension by dimension and not by a matrix product: equal vectors must get equal distances
    wherever they stand in the block, or the tie rule would be left to rounding.
    """
    distance_RM = np.zeros((len(residual_RD), len(codebook_MD)))
    for residual_R, codeword_M in zip(residual_RD.T, codebook_MD.T, strict=True):
        difference_RM = residual_R[:, None] - codeword_M
        difference_RM *= difference_RM
        distance_RM += difference_RM
    return distance_RM


def _rank_in_run(keys_R: Ints) -> Ints:
    """Position of each row within its run of equal keys, from 0."""
    index_R = np.arange(len(keys_R))
    starts = np.append(True, keys_R[1:] != keys_R[:-1])[: len(keys_R)]
    return index_R - np.maximum.accumulate(np.where(starts, index_R, 0))


def _blocks(keys_R: Ints, size: int) -> Iterator[tuple[int, int]]:
    """Slices of at most about `size` rows; a run of equal keys is cut only if it is longer."""
    start_R = np.arange(len(keys_R)) - _rank_in_run(keys_R)
    block_R = np.where(_rank_in_run(keys_R) < size, start_R, np.arange(len(keys_R))) // size
    edges = np.flatnonzero(np.append(True, block_R[1:] != block_R[:-1])[: len(keys_R)])
    yield from zip(edges.tolist(), [*edges[1:].tolist(), len(keys_R)], strict=False)
