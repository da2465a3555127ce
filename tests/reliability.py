"""The cases of docs/reliability.md: which tests stand for a case, and what they counted.

`@pytest.mark.case(14)` says that a test makes the fault of case 14 happen. `--size nightly` makes
the same tests go further. The end of a test run says which cases passed and how many trials were
made; `--cases-to FILE` writes that as JSON.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.machine import git

SIZES = ("ci", "nightly")


class Case(NamedTuple):
    """A case: the fault, and what happens then."""

    fault: str
    expected: str


CASES = {
    1: Case(
        "kill -9 at a random moment, every stage",
        "nothing wrong can be read; run again, it ends with the same digest",
    ),
    2: Case(
        "kill -9 at every step of a commit",
        "the same at every named point (`macrec.failpoint`); `macrec gc` names what is left",
    ),
    3: Case(
        "SIGTERM in training, ten seconds to end",
        "saved in under 5 s, exit 143; resumed, it ends with the bytes of an undisturbed run",
    ),
    4: Case(
        "SIGTERM in training, dead after 0.6 s",
        "the work lost is at most the time between two checkpoints",
    ),
    5: Case(
        "kill -9 while a checkpoint is saved",
        "the checkpoint before it loads",
    ),
    6: Case(
        "out of memory",
        "exit 2, nothing committed; the last line names the batch settings to lower",
    ),
    7: Case(
        "disk full at a part, at the manifest",
        "exit 2 with ENOSPC, the place and the bytes; no manifest, no partial files",
    ),
    8: Case(
        "two identical runs at once",
        "one commits, the other takes over its result; in one output folder the second is refused",
    ),
    9: Case(
        "a finished stage run again",
        "seconds of processor time, the start of Python above all; bytes untouched",
    ),
    10: Case(
        "every setting flipped",
        "a field of Config: computed again; a field of Execution: not",
    ),
    11: Case(
        "a retry that writes fewer parts",
        "only the new parts exist",
    ),
    12: Case(
        "resuming under other settings",
        "other settings have other checkpoints; one copied there by hand is refused, with reasons",
    ),
    13: Case(
        "a file cut short, any place",
        "refused with both sizes; a cached vector or a checkpoint is passed over and made again",
    ),
    14: Case(
        "one bit flipped, every kind of file",
        "refused; a cached vector or a checkpoint is passed over and made again",
    ),
    15: Case(
        "a manifest absent, cut or wrong; surplus files",
        "refused, and the message says which; surplus files are ignored",
    ),
    16: Case(
        "storage: 503, 429, 500 and resets",
        "tried again with jitter; the same digests",
    ),
    17: Case(
        "storage: the reply lost after the write",
        "a success if the content is ours, else an error",
    ),
    18: Case(
        "storage: a body cut short or stalled",
        "tried again within 20 s a try; it never hangs",
    ),
    19: Case(
        "storage: a corrupted download, whole and ranged",
        "compared with the checksum of the object; refused after one more reading",
    ),
    20: Case(
        "storage: 403, no bucket, no credentials, no network",
        "refused in under 10 s, with the URI: exit 2, and 75 without an answer",
    ),
    21: Case(
        "no network, local models",
        "works; a hub id is refused at once",
    ),
    22: Case(
        "image bombs",
        "`too_large`; memory bounded; the stage goes on",
    ),
    23: Case(
        "odd and broken images",
        "a vector or a reason for each; above max_bad_images exit 2",
    ),
    24: Case(
        "image paths that lead elsewhere",
        "refused before anything is opened",
    ),
    25: Case(
        "a missing image between two good ones",
        "a null row with its reason; the neighbours keep their own vectors, bit for bit",
    ),
    26: Case(
        "NaN, Inf and all-zero embeddings",
        "above 0.1 % refused, else null and listed",
    ),
    27: Case(
        "duplicate and look-alike ids",
        "duplicates are refused with the first ten; look-alikes are told apart, with a warning",
    ),
    28: Case(
        "nothing or next to nothing to train on",
        "refused before a model loads",
    ),
    29: Case(
        "interactions with unknown items",
        "counted and named; above 1 % refused, unless they are to be dropped",
    ),
    30: Case(
        "timestamps: ties, negative, mixed units, unsorted",
        "ties keep the order of the log, mixed units are refused, no test event before training",
    ),
    31: Case(
        "odd CSV and JSONL",
        "read by the type of the column; every bad line by its number",
    ),
    32: Case(
        "very long and empty texts",
        "cut and counted, in time that grows with the length",
    ),
    33: Case(
        "lone surrogates, bidi, emoji, control characters",
        "kept exactly as far as the recommendations; lone surrogates are refused by line",
    ),
    34: Case(
        "hostile Parquet",
        "all problems of the schema in one message; memory bounded",
    ),
    35: Case(
        "codebook collapse; more collisions than codes",
        "refused, with perplexity or counts",
    ),
    36: Case(
        "a loss or a metric that is NaN",
        "training ends (quantize at the end of the epoch), no checkpoint and no JSON holds NaN",
    ),
    37: Case(
        "a hostile model folder",
        "refused, and none of its code runs",
    ),
    38: Case(
        "scripts in titles, formulas in CSV",
        "inert in report and summary; no CSV is written anywhere",
    ),
    39: Case(
        "every stage from pipeline.yaml, in a process and in a container",
        "the same digests, read-only root, no network, user 1000",
    ),
}


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
            terminalreporter.line(f"case {number:2}, {CASES[number].fault}: {counted}")
        for number in sorted(set(self.ended) - set(passed)):
            terminalreporter.line(f"case {number:2}, {CASES[number].fault}: NOT passed")
        terminalreporter.line(
            f"cases passed / cases run: {len(passed)} / {len(self.ended)} (of {len(CASES)})"
        )

    def pytest_sessionfinish(self) -> None:
        path = self.config.getoption("cases_to")
        if path is None or hasattr(self.config, "workerinput"):  # the workers report to one process
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
