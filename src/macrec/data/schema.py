"""The Arrow schemas of all artifacts. docs/data_contract.md is generated from this file.

Row k of a per-item artifact is item k: `item_index` runs from 0 to N-1 without a gap.
"""

import pyarrow as pa


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


PICTURES = "pictures"
"""Metadata of image_embeddings that an encoder made: how many pictures the catalogue names, and how
many of them were found."""

_ITEM_INDEX = _field("item_index", pa.int32(), "position of the item in the catalogue, from 0")

ITEMS = pa.schema(
    [
        _ITEM_INDEX,
        _field("item_id", pa.string(), "the shop's identifier, unique, kept exactly"),
        _field("title", pa.string(), "title shown in the report; may be empty"),
        _field("text", pa.string(), "what the text encoder reads; empty when there is none"),
        _field("image_uri", pa.string(), "path below the image root", nullable=True),
        _field("has_image", pa.bool_(), "whether the catalogue names a picture"),
    ]
)

SEQUENCES = pa.schema(
    [
        _field("user_id", pa.string(), "the shop's identifier, unique"),
        _field(
            "item_index",
            pa.list_(pa.int32()),
            "items in time order; the last is the test target, the last but one the validation "
            "target",
        ),
        _field(
            "timestamp",
            pa.list_(pa.int64()),
            "time of each interaction in milliseconds since 1970; null when the log has none",
            nullable=True,
        ),
    ]
)

PSEUDO_LABELS = pa.schema(
    [
        _ITEM_INDEX,
        _field("text_label", pa.int32(), "k-means cluster of the text vector", nullable=True),
        _field("image_label", pa.int32(), "k-means cluster of the image vector", nullable=True),
    ]
)

_CODES = pa.list_(pa.int16())

SEMANTIC_IDS = pa.schema(
    [
        _ITEM_INDEX,
        _field("item_id", pa.string(), "the shop's identifier"),
        _field("text_codes", _CODES, "one code per level; null without text", nullable=True),
        _field("image_codes", _CODES, "one code per level; null without picture", nullable=True),
        _field("text_moved", pa.int8(), "highest level changed to make the code unique, or -1"),
        _field("image_moved", pa.int8(), "highest level changed to make the code unique, or -1"),
    ]
)

PREDICTIONS = pa.schema(
    [
        _field("user_id", pa.string(), "the shop's identifier"),
        _field("system", pa.string(), "which list: text, image, fused, ..."),
        _field("target", pa.int32(), "item index of the held-out item"),
        _field("items", pa.list_(pa.int32()), "item indices, best first"),
        _field("scores", pa.list_(pa.float32()), "score of each item; higher is better"),
    ]
)


RECOMMENDATIONS = pa.schema(
    [
        _field("user_id", pa.string(), "the shop's identifier"),
        _field("rank", pa.int32(), "place in the user's list, from 1"),
        _field("item_id", pa.string(), "the shop's identifier"),
        _field("score", pa.float32(), "fused log-probability; higher is better"),
    ]
)


def embeddings(dim: int, kind: pa.DataType | None = None) -> pa.Schema:
    """Return the schema of text_embeddings and image_embeddings.

    Args:
        dim: number of components of a vector.
        kind: Arrow type of the components, float32 or float16; None means float32.
    """
    return pa.schema(
        [
            _ITEM_INDEX,
            _field(
                "embedding",
                pa.list_(kind or pa.float32(), dim),
                "vector; null if absent",
                nullable=True,
            ),
            _field("status", pa.string(), "ok, missing, or the reason why there is no vector"),
        ]
    )


def histories(dim: int) -> pa.Schema:
    """Return the schema of history_embeddings: vectors of the items near each item in histories."""
    return pa.schema(
        [
            _ITEM_INDEX,
            _field("item_id", pa.string(), "the shop's identifier"),
            _field(
                "embedding",
                pa.list_(pa.float32(), dim),
                "vector of length one; null if the item stands near no other in a training part",
                nullable=True,
            ),
            _field("met", pa.int32(), "how often it stood near another item in a training part"),
        ]
    )


def latents(text_dim: int, image_dim: int) -> pa.Schema:
    """Return the schema of the quantizer's latents and of the codes with unresolved collisions."""
    text, image = (pa.list_(pa.float32(), dim) for dim in (text_dim, image_dim))
    return pa.schema(
        [
            _ITEM_INDEX,
            _field("text_latent", text, "encoder output; null without text", nullable=True),
            _field("image_latent", image, "encoder output; null without picture", nullable=True),
            _field("text_codes", _CODES, "one code per level; null without text", nullable=True),
            _field(
                "image_codes", _CODES, "one code per level; null without picture", nullable=True
            ),
        ]
    )
