"""Items and histories as tokens: the vocabulary of codes, sources of histories.

Shapes: N items, L levels, K interactions, T tokens, B rows of a batch, S source length.
An item is L tokens, one per level of its semantic ID. Source of a history: the tokens of its items
in one modality, an item without a picture being the one token MISSING, then EOS. Where a position
of the encoder is an item, all have L tokens, whose embeddings are summed. The task token is the
first token of the DECODER, so a source is encoded once whatever the number of its targets. A
target is the L tokens of an item; its length is fixed, so it carries no EOS.
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
"""What a position of the encoder is."""
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

PAD: Final = 0
EOS: Final = 1
MISSING: Final = 2
"""Stands in an image sequence for an item without a picture."""
SEQUENCE_TO_TEXT: Final = 3
SEQUENCE_TO_IMAGE: Final = 4
ITEM_TO_TEXT: Final = 5
ITEM_TO_IMAGE: Final = 6
FIRST_CODE: Final = 16
"""Ids 7..15 are reserved, so that a new task does not move the ids of the codes."""

SEQUENCE_TASK: Final[dict[Modality, int]] = {"text": SEQUENCE_TO_TEXT, "image": SEQUENCE_TO_IMAGE}
ITEM_TASK: Final[dict[Modality, int]] = {"text": ITEM_TO_TEXT, "image": ITEM_TO_IMAGE}
"""Decoder start token by the modality of the TARGET; the source shows its own modality."""


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of codes: they depend on the two numbers below only, never on the catalogue."""

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
        """Number of tokens: specials, task tokens, reserved ids, the codes of both modalities."""
        return FIRST_CODE + len(MODALITIES) * self.levels * self.codebook_size

    def first_token(self, modality: Modality, level: int) -> int:
        """Token of code 0 of `level`; the level's tokens are this one and the M - 1 after it."""
        if not 0 <= level < self.levels:
            raise UserError(f"vocabulary: level {level} is outside 0..{self.levels - 1}")
        block = MODALITIES.index(modality) * self.levels + level
        return FIRST_CODE + block * self.codebook_size

    def _level_starts_L(self, modality: Modality) -> Int64Array:
        return np.array([self.first_token(modality, level) for level in range(self.levels)])

    def tokens(self, modality: Modality, codes_NL: npt.NDArray[np.integer]) -> Int64Array:
        """Tokens [N, L] of codes [N, L].

        Raises UserError for a wrong width and for codes outside 0..M-1 (so for missing items too).
        """
        self._check(codes_NL, f"{modality} codes", codes_NL, self.codebook_size)
        return codes_NL.astype(np.int64) + self._level_starts_L(modality)

    def codes(self, modality: Modality, tokens_NL: npt.NDArray[np.integer]) -> Int32Array:
        """Codes [N, L] of tokens [N, L], the inverse of `tokens`.

        Raises UserError when a token is not one of its modality and level.
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
    """Tokens of interactions end to end; interaction k has tokens[offsets[k]:offsets[k+1]]."""

    tokens: Int32Array  # [T]
    offsets: Int64Array  # [K + 1]


def has_code(codes_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Which items [N] have a code; a missing one is a row of -1."""
    return codes_NL[:, 0] >= 0


def present_modalities(
    text_codes_NL: npt.NDArray[np.integer], image_codes_NL: npt.NDArray[np.integer]
) -> tuple[Modality, ...]:
    """The modalities in which at least one item has a code; text first."""
    codes = zip(MODALITIES, (text_codes_NL, image_codes_NL), strict=True)
    return tuple(modality for modality, codes_NL in codes if has_code(codes_NL).any())


def token_stream(
    vocabulary: Vocabulary,
    modality: Modality,
    codes_NL: npt.NDArray[np.integer],
    items_K: npt.NDArray[np.integer],
    source: Position = "tokens",
) -> TokenStream:
    """Tokens of the interactions `items_K` [K] (item indices), MISSING for an item without code:
    once, or L times where items are read."""
    present_N = has_code(codes_NL)
    piece_NL = np.full(codes_NL.shape, PAD if source == "tokens" else MISSING, np.int32)
    piece_NL[:, 0] = MISSING
    piece_NL[present_N] = vocabulary.tokens(modality, codes_NL[present_N])
    piece_KL = piece_NL[items_K]
    offsets = np.zeros(len(items_K) + 1, np.int64)
    np.cumsum((piece_KL != PAD).sum(axis=1), out=offsets[1:])
    return TokenStream(piece_KL[piece_KL != PAD], offsets)


def source_lengths(stream: TokenStream, first_B: Int64Array, last_B: Int64Array) -> Int64Array:
    """Tokens [B] of the sources of the interactions first..last (last excluded), EOS included."""
    return stream.offsets[last_B] - stream.offsets[first_B] + 1


def gather_sources(stream: TokenStream, first_B: Int64Array, last_B: Int64Array) -> Int64Array:
    """Source ids [B, S] of the interactions first..last (last excluded): tokens, EOS, then PAD."""
    length_B = source_lengths(stream, first_B, last_B) - 1
    position_S = np.arange(int(length_B.max(initial=0)) + 1)
    place_BS = stream.offsets[first_B][:, None] + position_S
    source_BS = stream.tokens.take(place_BS, mode="clip").astype(np.int64)
    source_BS[position_S > length_B[:, None]] = PAD
    source_BS[np.arange(len(length_B)), length_B] = EOS
    return source_BS


def source_mask(source_BS: "torch.Tensor", causal_encoder: bool) -> "torch.Tensor":
    """Which positions [B, S] of a source are read, by their (first) token: not PAD, and no EOS
    where the encoder does not look ahead, since in training there is none behind the beginning of
    a history."""
    return source_BS > EOS if causal_encoder else source_BS != PAD
