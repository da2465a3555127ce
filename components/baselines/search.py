"""Random search of a system's settings on validation users, limited by trials and by minutes.

Source: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization", JMLR 13.

The first trial uses the defaults. The others are drawn uniformly from the search space, without
repetition. No trial starts after the time limit. A trial that the limit interrupts counts with its
best result so far, if the system supports that. A trial that raises UserError counts as failed,
with the reason; examples are a loss that is not finite and collapsed codebooks. Test items are
never used.
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from components.baselines.interface import Baseline, Data, TrainingSchedule
from macrec.core.errors import UserError
from macrec.core.progress import log


class Trial(NamedTuple):
    """One set of settings and its result."""

    settings: dict[str, Any]
    """All searched and fixed settings, including those with default values."""
    validation_ndcg_10: float | None
    """None if the trial failed."""
    seconds: float
    epochs: int
    cut: bool
    """Whether the time limit stopped the trial."""
    failed: str = ""
    """Reason of the failure; empty if the trial succeeded."""


class TrialResult(NamedTuple):
    """Result of training with one set of settings."""

    validation_ndcg_10: float
    epochs: int
    cut: bool = False


class Candidate(NamedTuple):
    """A system whose settings are searched."""

    space: Mapping[str, tuple[Any, ...]]
    """Candidate values of each setting."""
    make: Callable[..., Hashable]
    """Build a config from drawn settings, passed as keywords. Raise UserError if they are
    incompatible."""
    describe: Callable[[Any], dict[str, Any]]
    """Return the settings of a config, for the record."""
    attempt: Callable[[Any, Callable[[], bool]], TrialResult]
    """Train with a config and validate. The second argument is a function that returns whether the
    time limit has passed."""


def baseline_candidate(
    module: Baseline, data: Data | None, schedule: TrainingSchedule, fixed: Mapping[str, Any]
) -> Candidate:
    """Return a model of this stage as a search candidate.

    Args:
        module: module of the model.
        data: training data.
        schedule: training schedule and validation.
        fixed: settings that all trials share.
    """

    def attempt(config: Any, out_of_time: Callable[[], bool]) -> TrialResult:
        assert data is not None
        timed = schedule._replace(out_of_time=out_of_time)
        fitted = module.fit(config, data, timed)
        return TrialResult(timed.validate(fitted.model), len(fitted.curve), fitted.cut)

    space = {name: values for name, values in module.SPACE.items() if name not in fixed}
    make = lambda **drawn: module.Config(**fixed, **drawn)  # noqa: E731
    return Candidate(space, make, dataclasses.asdict, attempt)


def draw_configs(
    candidate: Candidate, trials: int, generator: np.random.Generator
) -> Iterator[Any]:
    """Yield the configs to try: the defaults, then random ones.

    There are `trials` configs, or fewer if the search space is smaller.

    Args:
        candidate: search space and constructor of configs.
        trials: maximum number of configs.
        generator: random generator of the draws.
    """
    space = candidate.space
    tried = {candidate.make()}
    yield from tried
    for _ in range(100 * trials):  # in a small space most draws are repetitions
        if len(tried) >= trials or not space:
            return
        drawn = {name: v[int(generator.integers(len(v)))] for name, v in space.items()}
        try:
            config = candidate.make(**drawn)
        except UserError:  # incompatible values
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
    """Try settings one after the other and return at least one trial."""
    end = clock() + 60 * minutes
    found: list[Trial] = []
    for config in draw_configs(candidate, trials, np.random.default_rng(seed)):
        started = clock()
        if found and started >= end:
            break
        settings = candidate.describe(config)
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
    """Return the trial with the highest validation NDCG@10, or None if all failed.

    The earlier trial wins a tie.
    """
    ended = [trial for trial in found if not trial.failed]
    return max(ended, key=lambda trial: trial.validation_ndcg_10 or 0.0, default=None)
