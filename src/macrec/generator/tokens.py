"""Items and histories as tokens: the vocabulary of codes, and the source sequences of histories.

Shapes: N items, L levels, K interactions, T tokens, B rows of a batch, S source length.
An item has L tokens, one per level of its semantic ID. The source of a history is the tokens of
its items in one modality, then EOS. An item without an image is the single token MISSING. If a
position of the encoder is an item, every item has L tokens, whose embeddings are summed. The task
token is the first token of the DECODER, so a source is encoded once for all its targets. A target
is the L tokens of an item. Its length is fixed, so it has no EOS.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from macrec.core.errors import UserError

if TYPE_CHECKING:
    import torch

Modality = Literal["text", "image"]
Position = Literal["tokens", "items"]
"""The unit of a position of the encoder."""
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

PAD: Final = 0
EOS: Final = 1
MISSING: Final = 2
"""Represents an item without an image in an image sequence."""
SEQUENCE_TO_TEXT: Final = 3
SEQUENCE_TO_IMAGE: Final = 4
ITEM_TO_TEXT: Final = 5
ITEM_TO_IMAGE: Final = 6
FIRST_CODE: Final = 16
"""Ids 7..15 are reserved, so that a new task does not change the ids of the codes."""

SEQUENCE_TASK: Final[dict[Modality, int]] = {"text": SEQUENCE_TO_TEXT, "image": SEQUENCE_TO_IMAGE}
ITEM_TASK: Final[dict[Modality, int]] = {"text": ITEM_TO_TEXT, "image": ITEM_TO_IMAGE}
"""Decoder start token by the modality of the TARGET; the source's tokens show its modality."""


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of codes. They depend only on the two numbers below, never on the catalogue."""

    levels: int
    codebook_size: int

    def __post_init__(self) -> None:
        if self.levels < 1 or self.codebook_size < 1:
            raise UserError(
                f"vocabulary: levels={self.levels} and codebook_size={self.codebook_size} "
                "must both be at least 1"
            )

    @property
    def size(self) -> int:
        """Number of tokens: special tokens, task tokens, reserved ids, codes of both modalities."""
        return FIRST_CODE + len(MODALITIES) * self.levels * self.codebook_size

    def first_token(self, modality: Modality, level: int) -> int:
        """Return the token of code 0 of `level`; the level has this token and the next M - 1."""
        if not 0 <= level < self.levels:
            raise UserError(f"vocabulary: level {level} is outside 0..{self.levels - 1}")
        block = MODALITIES.index(modality) * self.levels + level
        return FIRST_CODE + block * self.codebook_size

    def _level_starts_L(self, modality: Modality) -> Int64Array:
        return np.array([self.first_token(modality, level) for level in range(self.levels)])

    def tokens(self, modality: Modality, codes_NL: npt.NDArray[np.integer]) -> Int64Array:
        """Return the tokens [N, L] of codes [N, L].

        Raises:
            UserError: the width is wrong, or codes are outside 0..M-1, as in rows of missing items.
        """
        self._check(codes_NL, f"{modality} codes", codes_NL, self.codebook_size)
        return codes_NL.astype(np.int64) + self._level_starts_L(modality)

    def codes(self, modality: Modality, tokens_NL: npt.NDArray[np.integer]) -> Int32Array:
        """Return the codes [N, L] of tokens [N, L], the inverse of `tokens`.

        Raises:
            UserError: a token does not belong to the modality and its level.
        """
        self._check(tokens_NL, f"{modality} tokens")
        codes_NL = tokens_NL.astype(np.int64) - self._level_starts_L(modality)
        self._check(tokens_NL, f"{modality} tokens", codes_NL, self.codebook_size)
        return codes_NL.astype(np.int32)

    def _check(
        self,
        given_NL: npt.NDArray[np.integer],
        what: str,
        codes_NL: npt.NDArray[np.integer] | None = None,
        limit: int = 0,
    ) -> None:
        if given_NL.ndim != 2 or given_NL.shape[1] != self.levels:
            raise UserError(f"{what}: shape {given_NL.shape}, expected [items, {self.levels}]")
        if codes_NL is None:
            return
        wrong = np.flatnonzero(((codes_NL < 0) | (codes_NL >= limit)).any(axis=1))
        if wrong.size:
            raise UserError(
                f"{what}: {wrong.size:,} of {len(given_NL):,} rows lie outside the {self.levels} "
                f"codebooks of {limit} (first: row {wrong[0]}, {given_NL[wrong[0]].tolist()})"
            )


class TokenStream(NamedTuple):
    """Tokens of interactions end to end; those of interaction k are
    tokens[offsets[k] : offsets[k + 1]]."""

    tokens: Int32Array  # [T]
    offsets: Int64Array  # [K + 1]


def has_code(codes_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return which items [N] have a code; a row of -1 is an item without a code."""
    return codes_NL[:, 0] >= 0


def present_modalities(
    text_codes_NL: npt.NDArray[np.integer], image_codes_NL: npt.NDArray[np.integer]
) -> tuple[Modality, ...]:
    """Return the modalities in which at least one item has a code; text first."""
    codes = zip(MODALITIES, (text_codes_NL, image_codes_NL), strict=True)
    return tuple(modality for modality, codes_NL in codes if has_code(codes_NL).any())


def token_stream(
    vocabulary: Vocabulary,
    modality: Modality,
    codes_NL: npt.NDArray[np.integer],
    items_K: npt.NDArray[np.integer],
    source: Position = "tokens",
) -> TokenStream:
    """Return the tokens of the interactions `items_K` [K] (item indices).

    An item without a code becomes MISSING: once, or L times if encoder positions are items.
    """
    present_N = has_code(codes_NL)
    piece_NL = np.full(codes_NL.shape, PAD if source == "tokens" else MISSING, np.int32)
    piece_NL[:, 0] = MISSING
    piece_NL[present_N] = vocabulary.tokens(modality, codes_NL[present_N])
    piece_KL = piece_NL[items_K]
    offsets = np.zeros(len(items_K) + 1, np.int64)
    np.cumsum((piece_KL != PAD).sum(axis=1), out=offsets[1:])
    return TokenStream(piece_KL[piece_KL != PAD], offsets)


def source_lengths(stream: TokenStream, first_B: Int64Array, last_B: Int64Array) -> Int64Array:
    """Return the number of tokens [B] of the sources of the interactions first..last, with EOS.

    The interaction `last` is excluded.
    """
    return stream.offsets[last_B] - stream.offsets[first_B] + 1


def gather_sources(stream: TokenStream, first_B: Int64Array, last_B: Int64Array) -> Int64Array:
    """Return source ids [B, S] of the interactions first..last: tokens, EOS, then PAD.

    The interaction `last` is excluded.
    """
    length_B = source_lengths(stream, first_B, last_B) - 1
    position_S = np.arange(int(length_B.max(initial=0)) + 1)
    place_BS = stream.offsets[first_B][:, None] + position_S
    source_BS = stream.tokens.take(place_BS, mode="clip").astype(np.int64)
    source_BS[position_S > length_B[:, None]] = PAD
    source_BS[np.arange(len(length_B)), length_B] = EOS
    return source_BS


def source_mask(source_BS: "torch.Tensor", causal_encoder: bool) -> "torch.Tensor":
    """Return which positions [B, S] of a source are read, by their (first) token.

    PAD is never read. A causal encoder does not read EOS either. It is trained on the beginnings of
    longer histories, which no EOS follows.
    """
    return source_BS > EOS if causal_encoder else source_BS != PAD
