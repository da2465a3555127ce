"""Decide which items keep their semantic ID in the next version and which get a new one.

Shape suffixes: N new items, D latent size, L levels, M codewords, R some of the items.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from macrec.core.errors import check
from macrec.data.vectors import Rows
from macrec.tokenizer.collisions import resolve_collisions
from macrec.tokenizer.frozen_codes import CHUNK, Version, allocate_matrix
from macrec.tokenizer.measures import has_codes

TOLERANCE = 0.05
"""Distance a latent may move, as a share of the spread, without counting as changed."""
MAX_CHANGED = 0.5
"""Maximum share of changed items among the old items of a modality."""
pc: Any = pyarrow.compute  # its functions are created at import, so type checkers cannot see them


class IdDecision(NamedTuple):
    """The latents and nearest codes for the next version's IDs, and which items keep their ID."""

    latents_ND: Rows
    nearest_NL: np.ndarray
    had_N: np.ndarray
    """Items that have an ID in the previous version."""
    both_N: np.ndarray
    """Items that have an ID in both versions."""
    changed_N: np.ndarray
    """Items of `both_N` whose changed content leads to other codes."""
    kept_N: np.ndarray
    """Items of `both_N` that keep their ID."""


class VersionUpdate(NamedTuple):
    """One modality of the next version, and what happened to its items."""

    version: Version
    had_N: np.ndarray
    """Items that have an ID in the previous version."""
    both_N: np.ndarray
    """Items that have an ID in both versions."""
    changed_N: np.ndarray
    """Items of `both_N` whose changed content leads to other codes."""
    same_N: np.ndarray
    """Items of `both_N` whose ID is the same."""
    displaced_N: np.ndarray
    """Items that got a new ID other than the nearest one, because the nearest was taken."""


def find_previous_rows(item_ids: pa.Array, previous_ids: pa.Array) -> np.ndarray:
    """Return the row of each item in the previous version, -1 for a new item; int64 [N]."""
    rows = pc.index_in(item_ids, value_set=previous_ids).fill_null(-1)
    return np.asarray(rows).astype(np.int64)


def decide_ids(
    old: Version, new: Version, row_N: np.ndarray, *, tolerance: float, recode: bool = True
) -> IdDecision:
    """Decide which items keep their ID.

    An item has changed if two conditions hold. Its latent is farther from the previous one than
    `tolerance` times the spread of the previous latents, and the quantizer gives it other codes
    than before. Codes alone would not suffice. Items between two codewords can change sides
    whenever their vectors are computed again, on another device or in another batch.

    A kept item retains the latent and the nearest codes on which its ID is based. So changes below
    the tolerance cannot add up unnoticed. The exception is a latent that moved farther but has
    the same nearest codes: it is replaced by the new latent.

    Args:
        old: the previous version.
        new: the items encoded again, without assigned IDs.
        row_N: row of each item in the previous version, -1 for a new item.
        tolerance: see above.
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

    nearest_NL = new.nearest_NL.copy()
    settled_N = kept_N & ~(far_N & ~differ_N)
    nearest_NL[settled_N] = old.nearest_NL[row_N[settled_N]]
    latents_ND = allocate_matrix(*new.latents_ND.shape)
    for rows in _chunks(np.arange(len(row_N))):
        latents_ND[rows] = new.latents_ND[rows]
    for rows in _chunks(np.flatnonzero(settled_N)):
        latents_ND[rows] = old.latents_ND[row_N[rows]]
    return IdDecision(latents_ND, nearest_NL, had_N, both_N, changed_N, kept_N)


def assign_ids(
    old: Version,
    new: Version,
    row_N: np.ndarray,
    item_ids: Sequence[str],
    codebooks_LMD: np.ndarray,
    *,
    tolerance: float,
    recode: bool,
) -> VersionUpdate:
    """Assign the next version's IDs.

    The items that `settle` selects keep their ID. The others get free codes, nearest first.

    Args:
        old: the previous version.
        new: the items encoded again, without assigned IDs.
        row_N: row of each item in the previous version, -1 for a new item.
        item_ids: distinct identifiers that break ties.
        codebooks_LMD: codewords of every level.
        tolerance: see `settle`.
        recode: whether changed items get new IDs; otherwise they keep theirs.
    """
    settled = decide_ids(old, new, row_N, tolerance=tolerance, recode=recode)
    kept_N, both_N = settled.kept_N, settled.both_N
    codes_NL = new.nearest_NL.copy()
    codes_NL[kept_N] = old.codes_NL[row_N[kept_N]]
    resolved = resolve_collisions(codes_NL, settled.latents_ND, codebooks_LMD, item_ids, kept_N)

    same_N = both_N.copy()
    same_N[both_N] = (resolved.codes[both_N] == old.codes_NL[row_N[both_N]]).all(1)
    version = Version(settled.latents_ND, settled.nearest_NL, resolved.codes)
    displaced_N = resolved.moved_level >= 0
    return VersionUpdate(version, settled.had_N, both_N, settled.changed_N, same_N, displaced_N)


def check_changed(
    found: Mapping[str, VersionUpdate | IdDecision], most: float, remedy: str
) -> None:
    """Check that at most a share `most` of the old items has changed.

    Raises:
        UserError: more items have changed, so the encoder or its settings must be different.
    """
    for name, after in found.items():
        changed, both = int(after.changed_N.sum()), int(after.both_N.sum())
        check(
            changed <= most * both,
            f"{changed:,} of {both:,} old items would get other {name} codes, more than {most:.0%} "
            f"of them: the encoder or its settings are not those of the earlier run. {remedy}",
        )


def _far(
    old_ND: Rows, new_ND: Rows, row_N: np.ndarray, both_N: np.ndarray, tolerance: float
) -> np.ndarray:
    """Return the items of both versions whose latents differ by more than the tolerance."""
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
