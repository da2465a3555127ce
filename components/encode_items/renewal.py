"""Which items keep their ID from one version to the next, and which get one.

Shape suffixes: N new items, D latent size, L levels, M codewords, R some of the items.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.encode_items.encoding import CHUNK, Version, scratch
from macrec.code_measures import has_codes
from macrec.semantic_ids import resolve_collisions
from macrec.vectors import Rows


class Renewed(NamedTuple):
    """One modality of the next version, and what became of its items."""

    version: Version
    had_N: np.ndarray
    """Items that have an ID in the version before."""
    both_N: np.ndarray
    """Items that have one in both."""
    changed_N: np.ndarray
    """Of those in both, the ones whose content calls for other codes."""
    same_N: np.ndarray
    """Of those in both, the ones whose ID is the same."""
    displaced_N: np.ndarray
    """Items that got an ID now and not the nearest one, because it was taken."""


def renew(
    old: Version,
    new: Version,
    row_N: np.ndarray,
    item_ids: Sequence[str],
    codebooks_LMD: np.ndarray,
    *,
    tolerance: float,
    recode: bool,
) -> Renewed:
    """The next version's IDs: old ones stay, the other items get free codes, nearest first.

    An item has changed if its latent is farther from the previous one than `tolerance` times the
    spread of the previous latents, AND the quantizer gives it other codes than it gave before.
    Codes alone would not do: of the items that stand between two codewords some change sides
    whenever their vectors are computed anew, on another device or in another batch.

    A kept item's latent and nearest codes stay those on which its ID rests, unless both versions
    have the same codes: changes too small to count do not add up unseen.

    Args:
        row_N: row of each item in the version before, -1 for a new one.
        recode: whether changed items get new IDs; otherwise they keep theirs.
    """
    has_N = has_codes(new.nearest_NL)
    had_N = row_N >= 0
    had_N[had_N] = has_codes(old.codes_NL[row_N[had_N]])
    both_N = has_N & had_N
    far_N = _far(old.latents_ND, new.latents_ND, row_N, both_N, tolerance)
    differ_N = both_N.copy()
    differ_N[both_N] = (new.nearest_NL[both_N] != old.nearest_NL[row_N[both_N]]).any(1)
    changed_N = far_N & differ_N
    kept_N = both_N & ~changed_N if recode else both_N

    nearest_NL, codes_NL = new.nearest_NL.copy(), new.nearest_NL.copy()
    settled_N = kept_N & ~(far_N & ~differ_N)
    nearest_NL[settled_N] = old.nearest_NL[row_N[settled_N]]
    codes_NL[kept_N] = old.codes_NL[row_N[kept_N]]
    latents_ND = scratch(*new.latents_ND.shape)
    for rows in _chunks(np.arange(len(row_N))):
        latents_ND[rows] = new.latents_ND[rows]
    for rows in _chunks(np.flatnonzero(settled_N)):
        latents_ND[rows] = old.latents_ND[row_N[rows]]
    resolved = resolve_collisions(codes_NL, latents_ND, codebooks_LMD, item_ids, kept_N)

    same_N = both_N.copy()
    same_N[both_N] = (resolved.codes[both_N] == old.codes_NL[row_N[both_N]]).all(1)
    version = Version(latents_ND, nearest_NL, resolved.codes)
    return Renewed(version, had_N, both_N, changed_N, same_N, resolved.moved_level >= 0)


def _far(
    old_ND: Rows, new_ND: Rows, row_N: np.ndarray, both_N: np.ndarray, tolerance: float
) -> np.ndarray:
    """Items in both versions whose latents differ by more than the tolerance."""
    rows_R = np.flatnonzero(both_N)
    total_D, squares = np.zeros(old_ND.shape[1]), 0.0
    shift_R: list[np.ndarray] = [np.zeros(0)]
    for rows in _chunks(rows_R):
        before_RD = old_ND[row_N[rows]].astype(np.float64)
        total_D += before_RD.sum(0)
        squares += float((before_RD**2).sum())
        shift_R.append(np.sqrt(((new_ND[rows] - before_RD) ** 2).sum(1)))
    count = max(len(rows_R), 1)
    variance = max(squares / count - float(((total_D / count) ** 2).sum()), 0.0)
    far_N = np.zeros(len(row_N), bool)
    far_N[rows_R] = np.concatenate(shift_R) > tolerance * np.sqrt(variance)
    return far_N


def _chunks(rows_R: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows_R), CHUNK):
        yield rows_R[start : start + CHUNK]
