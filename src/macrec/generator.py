"""The generative recommender: its vocabulary, its T5 model, its folder on disk.

Shapes: N items, L levels, K interactions, T tokens, B rows of a batch, S source length.
An item is L tokens, one per level of its semantic ID. Source of a history: the tokens of its items
in one modality, an item without a picture being the one token MISSING, then EOS. Where a position
of the encoder is an item, all have L tokens, whose embeddings are summed. The task token is the
first token of the DECODER, so a source is encoded once whatever the number of its targets. A
target is the L tokens of an item; its length is fixed, so it carries no EOS.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from macrec.errors import UserError
from macrec.runtime import silence_progress_bars

if TYPE_CHECKING:
    import torch
    from transformers import T5ForConditionalGeneration

Modality = Literal["text", "image"]
Source = Literal["tokens", "items"]
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

VOCABULARY_FILE: Final = "vocabulary.json"
CODES_FILE: Final = "semantic_ids.safetensors"
FORMAT: Final = 1


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
    source: Source = "tokens",
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


@dataclass(frozen=True)
class Recommender:
    """All that is needed to recommend. Codes are int32 [N, L]; a row of -1 is an item without."""

    model: "T5ForConditionalGeneration"
    vocabulary: Vocabulary
    text_codes_NL: Int32Array
    image_codes_NL: Int32Array
    max_history: int = 20

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those in which an item has a code: one or both."""
        return present_modalities(self.text_codes_NL, self.image_codes_NL)

    @property
    def source(self) -> Source:
        """What a position of the model's encoder is."""
        return "items" if getattr(self.model.config, "tokens_per_position", 1) > 1 else "tokens"

    def codes_NL(self, modality: Modality) -> Int32Array:
        return self.text_codes_NL if modality == "text" else self.image_codes_NL

    def stream(self, modality: Modality, items_K: npt.NDArray[np.integer]) -> TokenStream:
        """Tokens of the items `items_K` [K], one after the other."""
        codes_KL, order_K = self.codes_NL(modality)[items_K], np.arange(len(items_K))
        return token_stream(self.vocabulary, modality, codes_KL, order_K, self.source)

    def source_ids(
        self, modality: Modality, histories: list[npt.NDArray[np.integer]]
    ) -> Int64Array:
        """Source ids [B, S] of histories (item indices in time order), cut to the last max_history.

        The attention mask is `source_ids != PAD`.
        """
        cut = [np.asarray(history, np.int64)[-self.max_history :] for history in histories]
        bounds = np.zeros(len(cut) + 1, np.int64)
        np.cumsum([len(history) for history in cut], out=bounds[1:])
        items_K = np.concatenate(cut) if cut else np.zeros(0, np.int64)
        return gather_sources(self.stream(modality, items_K), bounds[:-1], bounds[1:])


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of the T5 model; the defaults are those of MACRec."""

    d_model: int = 128
    d_ff: int = 1024
    d_kv: int = 64
    layers: int = 4
    heads: int = 6
    dropout: float = 0.1
    encoder: Literal["full", "causal"] = "full"
    source: Source = "tokens"


def build_model(vocabulary: Vocabulary, size: ModelSize) -> "T5ForConditionalGeneration":
    """A T5 model with the final vocabulary, initialised from torch's global generator.

    It is built at its final size: `resize_token_embeddings` makes all new rows alike.
    """
    model = build_t5(vocabulary.size, size)
    if size.source == "items":  # read by macrec.t5; transformers' own forward knows it not
        model.config.tokens_per_position = vocabulary.levels
    return model


def build_t5(tokens: int, size: ModelSize) -> "T5ForConditionalGeneration":
    """As `build_model`, for so many tokens, the specials and the reserved ids among them."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=tokens,
        d_model=size.d_model,
        d_ff=size.d_ff,
        d_kv=size.d_kv,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        num_heads=size.heads,
        dropout_rate=size.dropout,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    if size.encoder == "causal":
        config.causal_encoder = True  # read by macrec.t5; transformers' own forward knows it not
    config.decoder_start_token_id = SEQUENCE_TO_TEXT  # what stock code starts from when untold
    return T5ForConditionalGeneration(config)


def save_recommender(folder: Path, recommender: Recommender) -> None:
    """Write the folder that `load_recommender` reads; stock transformers loads its model too."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    silence_progress_bars()
    recommender.model.save_pretrained(folder)
    vocabulary = recommender.vocabulary
    described = {
        "format": FORMAT,
        "levels": vocabulary.levels,
        "codebook_size": vocabulary.codebook_size,
        "max_history": recommender.max_history,
        "size": vocabulary.size,
    }
    (folder / VOCABULARY_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    codes = {
        f"{modality}_codes": np.ascontiguousarray(recommender.codes_NL(modality), np.int32)
        for modality in MODALITIES
    }
    save_file(codes, folder / CODES_FILE)


def load_recommender(folder: Path) -> Recommender:
    """Read a folder of `save_recommender`, on the CPU, in evaluation mode; no code in it is run.

    Raises UserError when files are missing or do not belong together.
    """
    from safetensors.numpy import load_file
    from transformers import T5ForConditionalGeneration

    wanted = ("config.json", "model.safetensors", VOCABULARY_FILE, CODES_FILE)
    absent = [name for name in wanted if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder}: not a recommender folder, {', '.join(absent)} missing")
    described = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
    if described.get("format") != FORMAT:
        raise UserError(
            f"{folder}/{VOCABULARY_FILE}: format {described.get('format')!r}, "
            f"this version reads {FORMAT}; train the recommender again"
        )
    vocabulary = Vocabulary(int(described["levels"]), int(described["codebook_size"]))
    codes = load_file(folder / CODES_FILE)
    silence_progress_bars()
    model = T5ForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, use_safetensors=True
    )
    if model.config.vocab_size != vocabulary.size:
        raise UserError(
            f"{folder}: the model has {model.config.vocab_size} tokens, "
            f"{VOCABULARY_FILE} describes {vocabulary.size}; the files are of two models"
        )
    text_NL, image_NL = codes["text_codes"], codes["image_codes"]
    if text_NL.shape != image_NL.shape or text_NL.shape[1:] != (vocabulary.levels,):
        raise UserError(
            f"{folder}/{CODES_FILE}: text codes {text_NL.shape} and image codes {image_NL.shape}, "
            f"expected both [items, {vocabulary.levels}]"
        )
    return Recommender(model.eval(), vocabulary, text_NL, image_NL, int(described["max_history"]))
