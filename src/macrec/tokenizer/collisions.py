"""Resolve collisions of semantic IDs.

Shapes: N items, L levels, M codewords per level, D latent dimension; R rows, G groups.
A row of codes that contains -1 is an item without the modality. It is returned unchanged.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macrec.core.errors import UserError
from macrec.data.vectors import Rows
from macrec.tokenizer.assignment import Floats, Ints, assign, rank_in_run
from macrec.tokenizer.measures import collision_rate, has_codes

BLOCK_CELLS = 1 << 21  # rows x M distances in memory at once: 16 MiB, whatever the item count
CACHE_CELLS = 1 << 15  # rows x M or rows x D processed at once: 256 KiB, to fit the CPU cache


class Resolution(NamedTuple):
    """Unique codes, and how they differ from the original codes."""

    codes: NDArray[np.int32]
    """[N, L]; no two rows are equal, except rows of -1."""
    moved_level: NDArray[np.int8]
    """[N]; first level at which the code changed, -1 if it did not change."""
    displacement: NDArray[np.float32]
    """[N]; distance between the decoded vectors (sums of codewords) before and after."""


def resolve_collisions(
    codes_NL: NDArray[np.integer],
    latents_ND: Rows,
    codebooks_LMD: NDArray[np.floating],
    item_ids: Sequence[str],
    fixed_N: NDArray[np.bool_] | None = None,
) -> Resolution:
    """Make the codes unique while moving items as little as possible (MACRec, section 4).

    Of the items that share a code, the one closest to its codeword keeps it. Ties are broken by
    item id. The others take free codewords of the last level under the same prefix. The total
    distance from their residuals to these codewords is minimal. If more than 256 items of a prefix
    compete, the smallest distances are assigned first instead. When a prefix has more items than
    free codewords, the closest items stay. The rest change the level above by the same rule, then
    every level below. Each step uses the residual of the new prefix.

    Items with distinct codes never move, so resolving a second time changes nothing. The result
    does not depend on the row order. Items with equal latents get their codes in the order of
    their ids, nearest first. Time is O(N log N), plus M x D for each moved item and level that is
    chosen again.

    Args:
        codes_NL: codes in [0, M), or -1 in every level of an item without the modality.
        latents_ND: encoder outputs, finite where there are codes; may be stored on disk.
        codebooks_LMD: codewords of every level.
        item_ids: distinct identifiers that break ties.
        fixed_N: items that always keep their code: other items move, even if they are closer.

    Raises:
        UserError: there are more items than codes, codes are outside the codebooks, numbers are
            not finite, or two fixed items share a code.
    """
    present_N = _check(codes_NL, latents_ND, codebooks_LMD)
    fixed_N = np.zeros(len(codes_NL), bool) if fixed_N is None else fixed_N
    _check_fixed(codes_NL, fixed_N & present_N, item_ids, codebooks_LMD.shape[1])
    # Process items in the order of their ids, so that results and ties do not depend on row order.
    order_N = np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), np.int64)
    rows_R = order_N[present_N[order_N]]
    resolved_NL = codes_NL.astype(np.int32)
    if len(rows_R):
        resolver = _Resolver(codes_NL[rows_R], latents_ND, rows_R, codebooks_LMD)
        resolved_NL[rows_R] = resolver.settle_all(fixed_N[rows_R])
    assert collision_rate(resolved_NL) == 0, "codes are not unique"
    assert (resolved_NL[fixed_N] == codes_NL[fixed_N]).all(), "a fixed item was moved"
    return describe_changes(codes_NL, resolved_NL, codebooks_LMD)


def moved_level(before_NL: NDArray[np.integer], after_NL: NDArray[np.integer]) -> NDArray[np.int8]:
    """Return the first level at which the codes of each row differ, [N]; -1 if they are equal."""
    changed_NL = before_NL != after_NL
    if not changed_NL.shape[1]:
        return np.full(len(changed_NL), -1, np.int8)
    return np.where(changed_NL.any(1), changed_NL.argmax(1), -1).astype(np.int8)


def describe_changes(
    before_NL: NDArray[np.integer], after_NL: NDArray[np.int32], codebooks_LMD: NDArray[np.floating]
) -> Resolution:
    """Describe how unique codes differ from the codes before."""
    moved_N = moved_level(before_NL, after_NL)
    displacement_N = np.zeros(len(after_NL), np.float32)
    moved = np.flatnonzero(moved_N >= 0)
    for rows in _chunks(moved, codebooks_LMD.shape[2]):
        shift_RD = sum_codewords(after_NL[rows], codebooks_LMD) - sum_codewords(
            before_NL[rows], codebooks_LMD
        )
        displacement_N[rows] = np.sqrt((shift_RD**2).sum(1))
    return Resolution(after_NL, moved_N, displacement_N)


def _check(
    codes_NL: NDArray[np.integer],
    latents_ND: Rows,
    codebooks_LMD: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """Validate the input and return which items have codes, bool [N]."""
    levels, size, dim = codebooks_LMD.shape
    present_N = has_codes(codes_NL)
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
    chunks = _chunks(np.flatnonzero(present_N), dim)
    broken = sum(int((~np.isfinite(latents_ND[rows]).all(1)).sum()) for rows in chunks)
    if broken:
        problems.append(f"{broken:,} of {items:,} latents are not finite; retrain the quantizer")
    if not np.isfinite(codebooks_LMD).all():
        problems.append("the codebooks are not finite; retrain the quantizer")
    if problems:
        raise UserError(f"cannot resolve collisions: {'; '.join(problems)}.")
    return present_N


def _check_fixed(
    codes_NL: NDArray[np.integer], fixed_N: NDArray[np.bool_], item_ids: Sequence[str], size: int
) -> None:
    rows = np.flatnonzero(fixed_N)
    keys_R = _keys(codes_NL[rows], size)
    _, group_R, size_G = np.unique(keys_R, return_inverse=True, return_counts=True)
    shared = rows[size_G[group_R] > 1]
    if len(shared):
        first = ", ".join(item_ids[int(row)] for row in shared[:5])
        raise UserError(
            f"cannot resolve collisions: {len(shared):,} of {len(rows):,} items that are to keep "
            f"their code share it with another of them (first: {first}). Give resolved codes."
        )


class _Resolver:
    """The state of a resolution; the R rows are the items with codes, in the order of their ids."""

    def __init__(
        self,
        codes_RL: NDArray[np.integer],
        latents_ND: Rows,
        items_R: Ints,
        codebooks_LMD: NDArray[np.floating],
    ) -> None:
        self.codes_RL = codes_RL.astype(np.int64)
        self.latents_ND, self.items_R, self.codebooks_LMD = latents_ND, items_R, codebooks_LMD
        self.levels, self.size, self.dim = codebooks_LMD.shape
        self._taken = np.zeros(0, np.int64)  # sorted keys of the codes already assigned

    def settle_all(self, fixed_R: NDArray[np.bool_]) -> Ints:
        """Fix the items that keep their code, then move the others, and return the codes.

        Levels are tried from the last one upwards.
        """
        keys_R = _keys(self.codes_RL, self.size)
        self._taken = np.unique(keys_R)
        rows, distance = self._find_colliding(keys_R)
        order = np.lexsort((rows, distance, ~fixed_R[rows], keys_R[rows]))
        order = order[rank_in_run(keys_R[rows][order]) > 0]  # the first of each code keeps it
        rows, distance = rows[order], distance[order]
        for level in reversed(range(self.levels)):
            prefix = _keys(self.codes_RL[rows, :level], self.size)
            order = np.lexsort((rows, distance, prefix))
            rows, distance, prefix = rows[order], distance[order], prefix[order]
            groups, group = np.unique(prefix, return_inverse=True)
            room = self._room(groups, level)
            stays = rank_in_run(prefix) < room[group]
            for start, stop in _blocks(prefix[stays], max(1, BLOCK_CELLS // self.size)):
                self._settle(np.sort(rows[stays][start:stop]), level)
            rows, distance = rows[~stays], distance[~stays]
        assert not len(rows), "the check let more items through than there are codes"
        return self.codes_RL

    def _find_colliding(self, keys_R: Ints) -> tuple[Ints, Floats]:
        """Return the items that share their code, and their squared distance to the decoded vector.

        The decoded vector is the sum of an item's codewords.
        """
        _, inverse, counts = np.unique(keys_R, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[inverse] > 1)
        chunks = _chunks(rows, self.dim)
        squared = [(self._residual(chunk, self.levels) ** 2).sum(1) for chunk in chunks]
        return rows, np.concatenate([np.zeros(0), *squared])

    def _settle(self, rows: Ints, level: int) -> None:
        """Choose the codes of these items from `level` down; their prefixes must have room."""
        for child_level in range(level, self.levels):
            prefix = _keys(self.codes_RL[rows, :child_level], self.size)
            groups, group = np.unique(prefix, return_inverse=True)
            children_GM = groups[:, None] * self.size + np.arange(self.size)
            room_GM = self._room(children_GM, child_level + 1)
            # The prefix may just have changed, so its residual is computed again.
            distance_RM = self._distances(rows, child_level)
            self.codes_RL[rows, child_level] = assign(distance_RM, group, room_GM)
        keys = np.sort(_keys(self.codes_RL[rows], self.size))
        self._taken = np.insert(self._taken, np.searchsorted(self._taken, keys), keys)

    def _room(self, prefixes: Ints, level: int) -> Ints:
        """Return the number of free codes below each prefix of `level` codes; any shape."""
        span = self.size ** (self.levels - level)
        first = np.searchsorted(self._taken, prefixes * span)
        return span - (np.searchsorted(self._taken, (prefixes + 1) * span) - first)

    def _distances(self, rows: Ints, level: int) -> Floats:
        """Return the distance of each residual to each codeword of the level, [R, M]."""
        codewords_DM = np.ascontiguousarray(self.codebooks_LMD[level].T, np.float64)
        parts = [
            _distances(self._residual(chunk, level), codewords_DM)
            for chunk in _chunks(rows, max(self.size, self.dim))
        ]
        return np.concatenate(parts)

    def _residual(self, rows: Ints, level: int) -> Floats:
        """Return the residual of each latent after the codewords above `level`, [R, D]."""
        decoded_RD = sum_codewords(self.codes_RL[rows, :level], self.codebooks_LMD)
        return self.latents_ND[self.items_R[rows]] - decoded_RD


def _keys(codes_RL: NDArray[np.integer], size: int) -> Ints:
    """Return one integer per row, with the codes as digits in base M; it preserves their order."""
    if size ** codes_RL.shape[1] > 2**62:
        raise UserError(
            f"{codes_RL.shape[1]} levels of {size} codewords are more than 2^62 codes. "
            "Quantize with fewer levels."
        )
    keys_R = np.zeros(len(codes_RL), np.int64)
    for codes_R in codes_RL.T:
        keys_R = keys_R * size + codes_R
    return keys_R


def sum_codewords(codes_RL: NDArray[np.integer], codebooks_LMD: NDArray[np.floating]) -> Floats:
    """Return the sum of the codewords of each row, [R, D]."""
    decoded_RD = np.zeros((len(codes_RL), codebooks_LMD.shape[2]))
    for codes_R, codebook_MD in zip(codes_RL.T, codebooks_LMD, strict=False):
        decoded_RD += codebook_MD[codes_R]
    return decoded_RD


def _distances(residual_RD: Floats, codewords_DM: Floats) -> Floats:
    """Return Euclidean distances [R, M].

    The sum runs dimension by dimension instead of by a matrix product. Equal vectors then get
    equal distances wherever they are in the block; otherwise rounding would decide ties.
    """
    squared_RM = np.zeros((len(residual_RD), codewords_DM.shape[1]))
    difference_RM = np.empty_like(squared_RM)
    for residual_R, codeword_M in zip(residual_RD.T, codewords_DM, strict=True):
        np.subtract(residual_R[:, None], codeword_M, out=difference_RM)
        difference_RM *= difference_RM
        squared_RM += difference_RM
    return np.sqrt(squared_RM)


def _chunks(rows: Ints, width: int) -> Iterator[Ints]:
    """Yield the rows in chunks small enough that `width` numbers per row fit in the cache."""
    step = max(1, CACHE_CELLS // width)
    yield from (rows[start : start + step] for start in range(0, len(rows), step))


def _blocks(keys_R: Ints, size: int) -> Iterator[tuple[int, int]]:
    """Yield slices of about `size` rows at most; only a longer run of equal keys is split."""
    start_R = np.arange(len(keys_R)) - rank_in_run(keys_R)
    block_R = np.where(rank_in_run(keys_R) < size, start_R, np.arange(len(keys_R))) // size
    edges = np.flatnonzero(np.append(True, block_R[1:] != block_R[:-1])[: len(keys_R)])
    yield from zip(edges.tolist(), [*edges[1:].tolist(), len(keys_R)], strict=False)
