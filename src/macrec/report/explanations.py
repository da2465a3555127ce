"""What each figure of the report means, as shown below the tables."""

from collections.abc import Mapping
from typing import Final

SHOWN: Final[Mapping[str, str]] = {
    "Coverage": "share of the catalogue that is in the first ten places of at least one list.",
    "Gini": "how unevenly the catalogue is shown in these places. It is 0 if all items are shown "
    "equally often, and near 1 if a few items take every place.",
    "Novelty": "mean of -log2 p over the shown items, in bits. Here p is an item's share of the "
    "training interactions, with one added to each count. One bit more means half the popularity.",
}
GROUPINGS: Final[Mapping[str, tuple[str, str]]] = {
    "popularity": (
        "Next item's popularity",
        "head items are the most popular in training, with one third of the training interactions. "
        "Middle items have the second third, and tail items have the rest. Unseen items are not "
        "in training. Items of equal popularity are in the same group.",
    ),
    "history": ("History length", "number of items before the next item."),
    "text": ("Next item's text", "whether the next item has text codes."),
    "image": ("Next item's picture", "whether the next item has image codes."),
}
CHURN: Final = (
    "A kept item has the same ID as in the earlier run, and a moved item has a different one. A "
    "new item has no ID in the earlier run, and a gone item has none in this run. Churn is the "
    "share of moved items among the items of both runs. It is 0 % with a frozen quantizer and "
    "unchanged items. It is near 100 % after the quantizer is trained again, because a new "
    "codebook has different codes."
)
CODEBOOKS: Final = (
    "The curves show the items per code, most used code first, all on one vertical scale. The "
    "dashed line is even use. Perplexity is the effective number of codes and should be near the "
    "number of codes. Gini is 0 if all codes have equally many items, and near 1 if a few codes "
    "have nearly all; below 0.5 is good. Largest is the share of items with the most used code."
)
CODES_LEAD: Final = (
    "The first three columns refer to the codes as quantized. All other figures refer to the final "
    "codes, after collisions are resolved."
)
CODES: Final[Mapping[str, str]] = {
    "Unexplained": "share of the variance of the item vectors that these codes do not explain. It "
    "should fall with every code.",
    "Recall": "share of an item's ten nearest neighbours in the embedding space that "
    "have the same codes. It should be many times the next column.",
    "Chance": "share of the catalogue that has the same codes. It is the recall of randomly "
    "chosen items.",
    "Lift": "how many times more often than by chance two consecutive items of a training history "
    "have the same codes, \u00b1 one standard error. At 1 the codes contain no co-occurrence "
    "information; the higher the lift, the more a recommender can learn from them. Finer codes "
    "have a higher lift, so compare only runs with equal codebook sizes. All codes together are "
    "unique, so the last row has no lift.",
    "Validation lift": "the same for the last training item and the validation item. It should be "
    "near the lift.",
    "Agreement": "normalised mutual information of the text code and the image code, from 0 if "
    "they are independent to 1 if each determines the other. Neither end is wrong; a low value "
    "means that the modalities contain different information. Adjusted subtracts the agreement "
    "that is expected by chance, so compare runs by it.",
}
COLLISIONS: Final = (
    "The rate is the share of items that need another code before all codes are unique; below "
    "10 % is good. Moved at level lists the moved items by the first level that changed, from "
    "level 0; changes at the last level are best. Distance is the mean shift of a moved item's "
    "decoded vector, relative to the mean distance of an item to its own codes; near 1 or below "
    "is good."
)
