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

from benchmarks.shared import git

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
        "the same at every named point (`macrec.core.failpoint`); `macrec gc` names what is left",
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
        "a setting of Settings: computed again; a setting of Execution: not",
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
    group.addoption(
        "--resume-cases", action="store_true", help="leave out what passed at the last --cases-to"
    )


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


class Ended(NamedTuple):
    """A test that has ended."""

    test: str
    cases: list[int]
    outcome: str
    trials: list[Any]
    """What was counted, and how many."""


class Tally:
    """Collects what the tests of each case did, and says it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.to: Path | None = config.getoption("cases_to")
        self.ended: dict[str, Ended] = {}
        self.journal = Journal(self.to, config) if self.to else None

    @pytest.hookimpl(trylast=True)  # behind the choice by -m and -k
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = [n for mark in item.iter_markers("case") for n in mark.args]
            unknown = [n for n in numbers if n not in CASES]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: there is no case {unknown}")
            item.user_properties += [("case", n) for n in sorted(set(numbers))]
        if self.journal and self.config.getoption("resume_cases"):
            chosen = {item.nodeid for item in items}
            self.ended |= {t: e for t, e in self.journal.read().items() if t in chosen}
            done = [item for item in items if item.nodeid in self.ended]
            items[:] = [item for item in items if item.nodeid not in self.ended]
            self.config.hook.pytest_deselected(items=done)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        properties = report.user_properties
        cases = sorted({int(str(n)) for name, n in properties if name == "case"})
        trials = [value for name, value in properties if name == "trials" and report.passed]
        earlier = self.ended.get(report.nodeid)
        if not cases or (earlier and earlier.outcome == "failed"):
            return
        self.ended[report.nodeid] = Ended(report.nodeid, cases, report.outcome, trials)
        if self.journal and not hasattr(self.config, "workerinput"):
            self.journal.add(self.ended[report.nodeid])

    def outcomes(self) -> dict[int, dict[str, int]]:
        """Tests of each case by their outcome."""
        found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for ended in self.ended.values():
            for number in ended.cases:
                found[number][ended.outcome] += 1
        return dict(sorted(found.items()))

    def trials(self, number: int) -> dict[str, int]:
        """What the tests of a case counted."""
        found: dict[str, int] = defaultdict(int)
        for ended in self.ended.values():
            for what, count in ended.trials if number in ended.cases else []:
                found[what] += count
        return found

    def passed(self) -> list[int]:
        """Cases of which a test passed and none failed or was left out."""
        return [n for n, outcomes in self.outcomes().items() if set(outcomes) == {"passed"}]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.ended:
            return
        size, passed = self.config.getoption("size"), self.passed()
        terminalreporter.section(f"reliability ({size})")
        for number in self.outcomes():
            counted = ", ".join(f"{count:,} {what}" for what, count in self.trials(number).items())
            failed = "" if number in passed else "NOT passed"
            if told := ", ".join(filter(None, (failed, counted))):
                terminalreporter.line(f"case {number:2}, {CASES[number].fault}: {told}")
        terminalreporter.line(
            f"cases passed / cases run: {len(passed)} / {len(self.outcomes())} (of {len(CASES)})"
        )

    def pytest_sessionfinish(self) -> None:
        if self.to is None or hasattr(self.config, "workerinput"):  # workers report to one process
            return
        found = {
            str(number): {
                "passed": number in self.passed(),
                "tests": outcomes,
                "trials": self.trials(number),
            }
            for number, outcomes in self.outcomes().items()
        }
        told = {**source(self.config), "cases": found}
        self.to.write_text(json.dumps(told, indent=1) + "\n")


def source(config: pytest.Config) -> dict[str, Any]:
    """What was tested, and how far."""
    return {
        "size": config.getoption("size"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "clean": not git("status", "--porcelain"),
    }


class Journal:
    """The tests that have ended, a line each, beside the file of --cases-to.

    The night's tests take hours; --resume-cases takes what passed in an interrupted run of the same
    commit and size from here. A tree with changes is never resumed.
    """

    def __init__(self, to: Path, config: pytest.Config) -> None:
        self.path, self.source = to.with_suffix(".jsonl"), source(config)
        if not config.getoption("resume_cases") and not hasattr(config, "workerinput"):
            self.path.unlink(missing_ok=True)

    def add(self, ended: Ended) -> None:
        """Appends a line."""
        with self.path.open("a") as file:
            file.write(json.dumps({**self.source, **ended._asdict()}) + "\n")

    def read(self) -> dict[str, Ended]:
        """Tests that passed, of this commit and size."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        found: dict[str, Ended] = {}
        for line in map(json.loads, lines):
            ended = Ended(**{name: line[name] for name in Ended._fields})
            if self.source["clean"] and self.source.items() <= line.items():
                found[ended.test] = ended
        return {test: ended for test, ended in found.items() if ended.outcome == "passed"}
