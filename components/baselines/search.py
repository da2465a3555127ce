"""Random search of a model's settings: a number of trials, a number of minutes, validation only.

The first trial is the model's defaults; the others are drawn from its SPACE, each value as likely
as the next, none twice. A trial that the minutes end in the middle counts with the best it had
reached, and no other is begun. Test items are never looked at (Bergstra and Bengio 2012, "Random
search for hyper-parameter optimization", JMLR 13).
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from components.baselines.interface import Baseline, Course, Data
from macrec.errors import UserError
from macrec.progress import log


class Trial(NamedTuple):
    """One choice of settings, and how good it was."""

    settings: dict[str, Any]
    """All settings of the model, those at their defaults too."""
    validation_ndcg_10: float
    seconds: float
    epochs: int
    cut: bool
    """Whether the minutes were over before it ended by itself."""


def draws(
    module: Baseline, fixed: Mapping[str, Any], trials: int, generator: np.random.Generator
) -> Iterator[Any]:
    """Configs to try: the defaults, then random ones, `trials` in all if there are as many.

    Args:
        module: the model.
        fixed: settings that every trial has.
        trials: how many.
        generator: of the draws.
    """
    space = {name: values for name, values in module.SPACE.items() if name not in fixed}
    tried = {module.Config(**fixed)}
    yield from tried
    for _ in range(100 * trials):  # in a small space most draws have been drawn before
        if len(tried) >= trials or not space:
            return
        drawn = {name: v[int(generator.integers(len(v)))] for name, v in space.items()}
        try:
            config = module.Config(**fixed, **drawn)
        except UserError:  # values that do not go together
            continue
        if config not in tried:
            tried.add(config)
            yield config


def search(
    module: Baseline,
    data: Data,
    course: Course,
    *,
    trials: int,
    minutes: float,
    fixed: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Tries settings in turn; the list has one trial at least."""
    end = clock() + 60 * minutes
    course = course._replace(out_of_time=lambda: clock() >= end)
    found: list[Trial] = []
    for config in draws(module, fixed or {}, trials, np.random.default_rng(course.seed)):
        started = clock()
        if found and started >= end:
            break
        fitted = module.fit(config, data, course)
        ndcg = course.validate(fitted.model)
        seconds = clock() - started
        settings = dataclasses.asdict(config)
        found.append(Trial(settings, ndcg, seconds, len(fitted.curve), fitted.cut))
        log.info("trial %d of %d: validation NDCG@10 %.4f, %s", len(found), trials, ndcg, settings)
    return found


def best(found: list[Trial]) -> Trial:
    """The trial with the highest validation NDCG@10, the earlier one on a tie."""
    return max(found, key=lambda trial: trial.validation_ndcg_10)
