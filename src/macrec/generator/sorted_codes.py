"""Sort codes lexicographically, to build the trie from them.

Shapes: N items, R items with a code, L levels.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

KEY_BITS: Final = 63
"""Codes that fit in this many bits are sorted as single integers."""


def sorted_rows(
    tokens_NL: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Return the items with a code, sorted by code and then by index.

    Also return how many leading tokens each item shares with the item before it.
    """
    items, levels = tokens_NL.shape
    present = np.flatnonzero(tokens_NL[:, 0] >= 0).astype(np.int32)
    low_L = [int(tokens_NL[present, level].min(initial=2**31 - 1)) for level in range(levels)]
    bits_L = [
        max(int(tokens_NL[present, level].max(initial=0)) - low_L[level], 0).bit_length()
        for level in range(levels)
    ]
    shared_R = np.zeros(len(present), np.int8)
    if sum(bits_L) > KEY_BITS:
        order = present[np.lexsort(tokens_NL[present].T[::-1])]
        alike = np.ones(max(len(order) - 1, 0), bool)
        for level in range(levels):
            token_R = tokens_NL[order, level]
            alike &= token_R[1:] == token_R[:-1]
            shared_R[1:] += alike
        return order, shared_R
    key_R = np.zeros(len(present), np.int64)
    for level in range(levels):
        key_R <<= bits_L[level]
        key_R |= tokens_NL[present, level].astype(np.int64) - low_L[level]
    index_bits = items.bit_length()
    if sum(bits_L) + index_bits <= KEY_BITS:  # with the index in the key, twice as fast as argsort
        key_R <<= index_bits
        key_R |= present
        key_R.sort()
        order = (key_R & ((1 << index_bits) - 1)).astype(np.int32)
        key_R >>= index_bits
    else:
        place_R = np.argsort(key_R, kind="stable")
        key_R, order = key_R[place_R], present[place_R]
    differs = key_R[1:] ^ key_R[:-1]
    for level in range(levels):
        shared_R[1:] += differs >> sum(bits_L[level + 1 :]) == 0
    return order, shared_R
