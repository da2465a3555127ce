"""Random search of a system's settings: a number of trials, a number of minutes, validation only.

The first trial is the defaults; the others are drawn from the system's space, each value as likely
as the next, none twice. When the minutes are over no other trial is begun; one that can be cut in
the middle counts with the best it had reached. One that ends with a UserError (a loss that is not
finite, codebooks that collapse) counts as failed, with the reason. Test items are never looked at
(Bergstra and Bengio 2012, "Random search for hyper-parameter optimization", JMLR 13).
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from components.baselines.interface import Baseline, Course, Data
from macrec.core.errors import UserError
from macrec.core.progress import log


class Trial(NamedTuple):
    """One choice of settings, and how good it was."""

    settings: dict[str, Any]
    """All settings that were searched or fixed, those at their defaults too."""
    validation_ndcg_10: float | None
    """None: it failed."""
    seconds: float
    epochs: int
    cut: bool
    """Whether the minutes were over before it ended by itself."""
    failed: str = ""
    """Why there is no figure."""


class Tried(NamedTuple):
    """What came of one choice of settings."""

    validation_ndcg_10: float
    epochs: int
    cut: bool = False


class Candidate(NamedTuple):
    """A system whose settings are searched."""

    space: Mapping[str, tuple[Any, ...]]
    """The values that each setting may have."""
    make: Callable[..., Hashable]
    """A config from drawn settings, by keyword; UserError where they do not go together."""
    told: Callable[[Any], dict[str, Any]]
    """The settings of a config, for the record."""
    attempt: Callable[[Any, Callable[[], bool]], Tried]
    """Trains with a config and validates. Its second argument says whether the time is over."""


def of_baseline(
    module: Baseline, data: Data | None, course: Course, fixed: Mapping[str, Any]
) -> Candidate:
    """A model of this stage.

    Args:
        module: the model.
        data: what it learns from.
        course: how long, and its validation.
        fixed: settings that every trial has.
    """

    def attempt(config: Any, out_of_time: Callable[[], bool]) -> Tried:
        assert data is not None
        timed = course._replace(out_of_time=out_of_time)
        fitted = module.fit(config, data, timed)
        return Tried(timed.validate(fitted.model), len(fitted.curve), fitted.cut)

    space = {name: values for name, values in module.SPACE.items() if name not in fixed}
    make = lambda **drawn: module.Config(**fixed, **drawn)  # noqa: E731
    return Candidate(space, make, dataclasses.asdict, attempt)


def draws(candidate: Candidate, trials: int, generator: np.random.Generator) -> Iterator[Any]:
    """Configs to try: the defaults, then random ones, `trials` in all if there are as many.

    Args:
        candidate: its space, and how a config is made.
        trials: how many.
        generator: of the draws.
    """
    space = candidate.space
    tried = {candidate.make()}
    yield from tried
    for _ in range(100 * trials):  # in a small space most draws have been drawn before
        if len(tried) >= trials or not space:
            return
        drawn = {name: v[int(generator.integers(len(v)))] for name, v in space.items()}
        try:
            config = candidate.make(**drawn)
        except UserError:  # values that do not go together
            continue
        if config not in tried:
            tried.add(config)
            yield config


def search(
    candidate: Candidate,
    *,
    trials: int,
    minutes: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Tries settings in turn; the list has one trial at least."""
    end = clock() + 60 * minutes
    found: list[Trial] = []
    for config in draws(candidate, trials, np.random.default_rng(seed)):
        started = clock()
        if found and started >= end:
            break
        settings = candidate.told(config)
        try:
            tried = candidate.attempt(config, lambda: clock() >= end)
        except UserError as error:
            found.append(Trial(settings, None, clock() - started, 0, False, str(error)))
            log.warning("trial %d of %d failed: %s, %s", len(found), trials, error, settings)
            continue
        ndcg, epochs, cut = tried
        found.append(Trial(settings, ndcg, clock() - started, epochs, cut))
        log.info("trial %d of %d: validation NDCG@10 %.4f, %s", len(found), trials, ndcg, settings)
    return found


def best(found: list[Trial]) -> Trial | None:
    """The trial with the highest validation NDCG@10, the earlier one on a tie; None: all failed."""
    ended = [trial for trial in found if not trial.failed]
    return max(ended, key=lambda trial: trial.validation_ndcg_10 or 0.0, default=None)
