"""The cases of docs/reliability.md: which tests stand for a case, and what they counted.

`@pytest.mark.case(14)` says that a test makes the fault of case 14 happen. `--size nightly` makes
the same tests go further. The end of a test run says which cases passed and how many trials were
made; `--cases-to FILE` writes that as JSON.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import git

SIZES = ("ci", "nightly")
CASES = {
    1: "kill -9 at a random moment, every stage",
    2: "kill -9 at every step of a commit",
    3: "SIGTERM in training, ten seconds to end",
    4: "SIGTERM in training, dead after 0.6 s",
    5: "kill -9 while a checkpoint is saved",
    6: "out of memory",
    7: "disk full at a part, at the manifest",
    8: "two identical runs at once",
    9: "a finished stage run again",
    10: "every setting flipped",
    11: "a retry that writes fewer parts",
    12: "resuming under other settings",
    13: "a file cut short, any place",
    14: "one bit flipped, every kind of file",
    15: "a manifest absent, cut or wrong; surplus files",
    16: "storage: 503, 429, 500 and resets",
    17: "storage: the reply lost after the write",
    18: "storage: a body cut short or stalled",
    19: "storage: a corrupted download, whole and ranged",
    20: "storage: 403, no bucket, no credentials, no network",
    21: "no network, local models",
    22: "image bombs",
    23: "odd and broken images",
    24: "image paths that lead elsewhere",
    25: "a missing image between two good ones",
    26: "NaN, Inf and all-zero embeddings",
    27: "duplicate and look-alike ids",
    28: "nothing or next to nothing to train on",
    29: "interactions with unknown items",
    30: "timestamps: ties, negative, mixed units, unsorted",
    31: "odd CSV and JSONL",
    32: "very long and empty texts",
    33: "lone surrogates, bidi, emoji, control characters",
    34: "hostile Parquet",
    35: "codebook collapse; more collisions than codes",
    36: "a loss or a metric that is NaN",
    37: "a hostile model folder",
    38: "scripts in titles, formulas in CSV",
    39: "every stage from pipeline.yaml, in a process and in a container",
}
"""What each case is about; what is expected of it stands in docs/reliability.md."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--size", choices=SIZES, default="ci", help="how far the fault tests go")
    group.addoption("--cases-to", type=Path, help="write what the cases counted as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(*numbers): stands for cases of docs/reliability.md")
    config.pluginmanager.register(Tally(config), "reliability-tally")


@pytest.fixture
def sized(pytestconfig: pytest.Config) -> Callable[[Any, Any], Any]:
    """Gives the first value in CI, the second with `--size nightly`."""
    return lambda ci, nightly: (ci, nightly)[SIZES.index(pytestconfig.getoption("size"))]


@pytest.fixture
def trials(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Counts trials of the test's case: `trials("flipped bits refused", 300)`.

    Call it behind the assertions, so that what is counted has passed.
    """
    return lambda what, count: record_property("trials", (what, count))


class Tally:
    """Collects what the tests of each case did, and says it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.ended: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.trials: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = [n for mark in item.iter_markers("case") for n in mark.args]
            unknown = [n for n in numbers if n not in CASES]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: there is no case {unknown}")
            item.user_properties += [("case", n) for n in sorted(set(numbers))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        numbers = [n for name, n in report.user_properties if name == "case"]
        for number in numbers:
            self.ended[number][report.outcome] += 1
            for name, value in report.user_properties:
                if name == "trials" and report.passed:
                    self.trials[number][value[0]] += value[1]

    def passed(self) -> list[int]:
        """Cases of which a test passed and none failed or was left out."""
        return sorted(n for n, ends in self.ended.items() if set(ends) == {"passed"})

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.ended:
            return
        size, passed = self.config.getoption("size"), self.passed()
        terminalreporter.section(f"reliability ({size})")
        for number in sorted(self.trials):
            counted = ", ".join(f"{count:,} {what}" for what, count in self.trials[number].items())
            terminalreporter.line(f"case {number:2}, {CASES[number]}: {counted}")
        for number in sorted(set(self.ended) - set(passed)):
            terminalreporter.line(f"case {number:2}, {CASES[number]}: NOT passed")
        terminalreporter.line(
            f"cases passed / cases run: {len(passed)} / {len(self.ended)} (of {len(CASES)})"
        )

    def pytest_sessionfinish(self) -> None:
        path = self.config.getoption("cases_to")
        if path is None:
            return
        found = {
            str(number): {
                "passed": number in self.passed(),
                "tests": ends,
                "trials": self.trials.get(number, {}),
            }
            for number, ends in sorted(self.ended.items())
        }
        told = {
            "size": self.config.getoption("size"),
            "commit": git("rev-parse", "--short", "HEAD"),
            "clean": not git("status", "--porcelain"),
            "cases": found,
        }
        path.write_text(json.dumps(told, indent=1) + "\n")
