"""Chooses the number of codewords and levels from the items if the settings leave them open."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from components.quantize.spec import MAX_CODEBOOK, Settings
from macrec.compute.powers import nearest_power_of_two

SMALLEST = 8
ROOM = 16  # minimum number of codes per item


class Sizes(NamedTuple):
    """The sizes of a quantizer and the reason for them."""

    codebook_size: int
    levels: int
    reason: str


def choose(config: Settings, items: Mapping[str, int]) -> Sizes:
    """Return the sizes from the settings, or sizes that suit the number of vectors per modality.

    codebook_size 0 chooses the power of two nearest to the square root of n, between 8 and n. Here
    n is the number of items of the scarcer modality. The first code then splits the catalogue into
    about as many groups as a group has items. Histories contain codes of larger codebooks too
    rarely to learn them. Codes of smaller ones carry too little information (measured in
    docs/experiments.md).

    levels 0 chooses the fewest levels, at least 3, that offer 16 codes per item of the richer
    modality.
    """
    few, many = min(items.values()), max(items.values())
    reasons: list[str] = []
    size = math.prod(config.fsq_levels) if config.fsq_levels else config.codebook_size
    if not size:
        root = math.sqrt(max(few, 1))
        most = min(2 ** max(int(math.log2(max(few, 1))), 1), MAX_CODEBOOK)
        least = min(SMALLEST, most)
        size = nearest_power_of_two(root, least, most)
        reasons.append(
            f"{size} codewords a level, of the powers of two from {least} to {most:,} the nearest "
            f"to {root:,.1f}, the root of {few:,} items"
        )
    levels = config.levels
    if not levels:
        levels = 3
        while size**levels < ROOM * many:
            levels += 1
        reasons.append(
            f"{levels} levels, which offer {size**levels / many:,.0f} codes for each of {many:,} "
            "items"
        )
    return Sizes(size, levels, "; ".join(reasons) or "as set")


def settle(config: Settings, sizes: Sizes) -> Settings:
    """Return the settings with every size filled in."""
    return replace(
        config,
        codebook_size=sizes.codebook_size,
        levels=sizes.levels,
        latent_dim=len(config.fsq_levels) or config.latent_dim,
    )
