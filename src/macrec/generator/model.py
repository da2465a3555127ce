"""The generative recommender: its T5 model and its folder on disk.

Shapes: N items, L levels, K interactions, B rows of a batch, S source length
(`macrec.generator.tokens`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from macrec.compute.device import silence_progress_bars
from macrec.core.errors import UserError
from macrec.generator.tokens import (
    EOS,
    MODALITIES,
    PAD,
    SEQUENCE_TO_TEXT,
    Int32Array,
    Int64Array,
    Modality,
    Position,
    TokenStream,
    Vocabulary,
    gather_sources,
    present_modalities,
    token_stream,
)

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

VOCABULARY_FILE: Final = "vocabulary.json"
CODES_FILE: Final = "semantic_ids.safetensors"
FORMAT: Final = 1


@dataclass(frozen=True)
class Recommender:
    """A T5 model with its vocabulary and the semantic IDs of the catalogue.

    Codes are int32 [N, L]; an item without codes has a row of -1.
    """

    model: "T5ForConditionalGeneration"
    vocabulary: Vocabulary
    text_codes_NL: Int32Array
    image_codes_NL: Int32Array
    max_history: int = 20

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities in which at least one item has a code: one or both."""
        return present_modalities(self.text_codes_NL, self.image_codes_NL)

    @property
    def source(self) -> Position:
        """Whether a position of the model's encoder is a token or an item."""
        return "items" if getattr(self.model.config, "tokens_per_position", 1) > 1 else "tokens"

    def codes_NL(self, modality: Modality) -> Int32Array:
        return self.text_codes_NL if modality == "text" else self.image_codes_NL

    def stream(self, modality: Modality, items_K: npt.NDArray[np.integer]) -> TokenStream:
        """Return the tokens of the items `items_K` [K], end to end."""
        codes_KL, order_K = self.codes_NL(modality)[items_K], np.arange(len(items_K))
        return token_stream(self.vocabulary, modality, codes_KL, order_K, self.source)

    def source_ids(
        self, modality: Modality, histories: list[npt.NDArray[np.integer]]
    ) -> Int64Array:
        """Return source ids [B, S] of histories, cut to their last `max_history` items.

        A history is an array of item indices in time order. The attention mask is
        `source_ids != PAD`.
        """
        cut = [np.asarray(history, np.int64)[-self.max_history :] for history in histories]
        bounds = np.zeros(len(cut) + 1, np.int64)
        np.cumsum([len(history) for history in cut], out=bounds[1:])
        items_K = np.concatenate(cut) if cut else np.zeros(0, np.int64)
        return gather_sources(self.stream(modality, items_K), bounds[:-1], bounds[1:])


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of the T5 model; the defaults are those of the MACRec paper."""

    d_model: int = 128
    d_ff: int = 1024
    d_kv: int = 64
    layers: int = 4
    heads: int = 6
    dropout: float = 0.1
    encoder: Literal["full", "causal"] = "full"
    source: Position = "tokens"


def build_model(vocabulary: Vocabulary, size: ModelSize) -> "T5ForConditionalGeneration":
    """Build a T5 model with the final vocabulary, initialised from torch's global generator.

    The model is built at its final size because `resize_token_embeddings` makes all new rows
    identical.
    """
    model = build_t5(vocabulary.size, size)
    if (
        size.source == "items"
    ):  # read by macrec.generator.t5; transformers' own forward pass ignores it
        model.config.tokens_per_position = vocabulary.levels
    return model


def build_t5(tokens: int, size: ModelSize) -> "T5ForConditionalGeneration":
    """Build a T5 model for `tokens` tokens, including the special tokens and reserved ids."""
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
        config.causal_encoder = (
            True  # read by macrec.generator.t5; transformers' own forward pass ignores it
        )
    config.decoder_start_token_id = SEQUENCE_TO_TEXT  # the default of transformers' own `generate`
    return T5ForConditionalGeneration(config)


def save_recommender(folder: Path, recommender: Recommender) -> None:
    """Write the folder that `load_recommender` reads; transformers can also load its model."""

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
    """Load a folder of `save_recommender` on the CPU, in evaluation mode, without running its code.

    Raises:
        UserError: files are missing or do not belong together.
    """
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
