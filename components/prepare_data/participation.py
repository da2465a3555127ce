"""Describes who takes part after the filters, and what training cannot learn from them.

The split of a history decides what can be learned: the last item is for the test, the one before it
for validation, and the generator predicts every training item but the first from those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from components.prepare_data.interactions import SHORTEST, Round

LEARNABLE = SHORTEST + 1
"""Shortest history with two training items: one to predict and one before it."""
MANY = 0.5
"""Share of users, items or interactions from which the report warns of them."""
FEW_USERS = 100
"""Below this number, one user changes a metric by more than one percent."""


def describe(figures: Mapping[str, float]) -> str:
    """Return how many users, items and interactions take part, and who gets no list.

    Only users of the sequences are ranked for, and only items of the catalogue that is written are
    recommended.
    """
    parts = [
        f"{figures[name]:,.0f} of {figures[f'{name}_read']:,.0f} {name}"
        for name in ("users", "items", "interactions")
    ]
    users = figures["users_read"] - figures["users"]
    items = figures["items_read"] - figures["items"]
    lists = (
        f"{_count(users, 'user gets', 'users get')} no list" if users else "every user gets a list"
    )
    never = f", {_count(items, 'item is', 'items are')} never recommended" if items else ""
    return f"{parts[0]}, {parts[1]} and {parts[2]} take part; {lists}{never}"


def find_too_little(
    minimum: int, stages: list[Round], figures: Mapping[str, float], longest: int
) -> str | None:
    """Return a problem if no user, or less than two items, are left; None if there is enough.

    Args:
        minimum: the setting min_interactions.
        stages: the sizes after each round of the k-core.
        figures: the metrics of the report.
        longest: number of interactions of the most active user before the k-core.
    """
    if figures["users"] and figures["items"] >= 2:
        return None
    steps = ", then ".join(str(step) for step in stages)
    message = (
        f"Too little is left after the filters (min_interactions={minimum}, at least {SHORTEST} "
        f"interactions a user): {steps}. {figures['users_too_short']:,.0f} users had fewer than "
        f"{SHORTEST}; the most active user has {longest:,}. "
    )
    if low := figures.get("interactions_dropped_low_rating"):
        message += f"{low:,.0f} interactions have a rating below prepare_data.min_rating. "
    if longest < LEARNABLE:
        return (
            f"{message}Training needs users with at least {LEARNABLE}, whatever min_interactions "
            "is: give a longer log, and check that user_id_column names the users and not the "
            "sessions or orders."
        )
    if minimum > 1:
        return f"{message}Lower min_interactions or give a longer log."
    return f"{message}Give a longer log and a catalogue of at least two items."


def find_training_problems(name: str, lengths: np.ndarray) -> Iterator[str]:
    """Yield what makes the stage train fail for certain.

    Args:
        name: the log.
        lengths: number of interactions of each user who takes part.
    """
    if len(lengths) and lengths.max() < LEARNABLE:
        yield (
            f"{name}: all {len(lengths):,} users have {SHORTEST} interactions. The last two are "
            "for test and validation, so each user has one training item and the stage train has "
            f"no sequence to learn from. Give a longer log: users need at least {LEARNABLE}."
        )


def find_warnings(
    name: str, minimum: int, figures: Mapping[str, float], lengths: np.ndarray
) -> Iterator[str]:
    """Yield what makes the result weak.

    Args:
        name: the log.
        minimum: the setting min_interactions.
        figures: the metrics of the report.
        lengths: number of interactions of each user who takes part.
    """
    users, read = figures["users"], figures["users_read"]
    if read - users > MANY * read:
        short, needed = figures["users_too_short"], max(minimum, SHORTEST)
        message = (
            f"{name}: {read - users:,.0f} of {read:,.0f} users take no part and get no list, "
            f"because they have fewer than {needed} interactions with items that take part. "
            f"{short:,.0f} of them have fewer than {SHORTEST}, which is too few under any setting."
        )
        if read - short > users:
            message += (
                f" With prepare_data.min_interactions=0, {read - short:,.0f} users would take part."
            )
        yield message
    rare = figures["items_dropped_rare"]
    if rare > MANY * figures["items_read"]:
        yield (
            f"{name}: {rare:,.0f} of {figures['items_read']:,.0f} items have fewer than {minimum} "
            "interactions of users who take part, and are never recommended. With "
            "prepare_data.min_interactions=0 no item is dropped for this reason."
        )
    short = int(np.count_nonzero(lengths < LEARNABLE))
    if MANY * users < short < users:
        yield (
            f"{name}: {short:,} of {users:,.0f} users have {SHORTEST} interactions, so they have "
            "one training item and no sequence to learn from. The stage train learns only from "
            f"the other {users - short:,.0f} users. Give a longer log, or set "
            f"prepare_data.min_interactions={LEARNABLE} to leave these users out."
        )
    if 0 < users < FEW_USERS:
        yield (
            f"{name}: {users:,.0f} users take part, and each is one test case, so the metrics "
            f"vary widely by chance. Give a log of at least {FEW_USERS} such users before you "
            "compare models."
        )


def _count(number: float, one: str, many: str) -> str:
    return f"{number:,.0f} {one if number == 1 else many}"
