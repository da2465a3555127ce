"""Values that the templates compute from the report: columns, table cells and panels."""

from collections.abc import Callable, Mapping, Sequence

from macrec.report import numbers
from macrec.report.contents import (
    CUTOFFS,
    METRICS,
    Group,
    Panel,
    Prefix,
    Report,
    Role,
    Score,
    Series,
    System,
)
from macrec.report.explanations import CODES, GROUPINGS


def score_columns(systems: Sequence[System]) -> list[tuple[str, list[str]]]:
    """Return [("HR", ["HR@1", ...]), ...]: the columns that at least one system has."""
    columns: list[tuple[str, list[str]]] = []
    for metric in METRICS:
        names = [f"{metric}@{k}" for k in CUTOFFS]
        present = [name for name in names if any(name in s.scores for s in systems)]
        if present:
            columns.append((metric, present))
    return columns


def group_systems(groups: Sequence[Group]) -> list[str]:
    """Return the systems that any group has scores of, in order of first occurrence."""
    return list(dict.fromkeys(name for group in groups for name in group.scores))


def group_title(by: str) -> str:
    """Return the title of a grouping criterion."""
    return GROUPINGS[by][0] if by in GROUPINGS else by


def group_meanings(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return the title and the meaning of every grouping criterion that is present."""
    present = {group.by for group in groups}
    return [explained for by, explained in GROUPINGS.items() if by in present]


def code_meanings(report: Report) -> list[tuple[str, str]]:
    """Return the name and the meaning of every measure of the codes that is shown."""
    return [pair for pair in CODES.items() if report.agreement or pair[0] != "Agreement"]


def lift(score: Score) -> str:
    """Format a lift as 4.9 \u00b1 0.2, with only the decimals that the error makes meaningful."""
    error = None if score.value is None or score.high is None else score.high - score.value
    if error is None or not numbers.usable(error):
        return numbers.decimal(score.value, 1)
    places = 2 if error < 0.1 else 1 if error < 1 else 0
    return f"{numbers.decimal(score.value, places)} \u00b1 {numbers.decimal(error, places)}"


def code_panels(report: Report) -> list[Panel]:
    """Return charts by number of codes and by level; charts without values are omitted."""
    unexplained = _lines(report, 100, lambda p: p.unexplained and 100 * p.unexplained)
    recall = _lines(report, 100, lambda p: p.recall and 100 * p.recall)
    lifts = _lines(report, 1, lambda p: p.lift.value)
    agreement = (
        _line("plain", "other", [a.mutual for a in report.agreement]),
        _line("adjusted", "other", [a.adjusted for a in report.agreement]),
    )
    panels = [
        Panel(title=title, x_label=x_label, y_label=y_label, series=series)
        for title, x_label, y_label, series in (
            ("Unexplained variance", "number of codes", "%", unexplained),
            ("Neighbour recall", "number of codes", "%", recall),
            ("Lift of consecutive items", "number of codes", "times chance", lifts),
            ("Agreement of text and image codes", "level", "0 to 1", agreement),
        )
    ]
    return [p for p in panels if any(numbers.usable(y) for line in p.series for y in line.y)]


def _lines(
    report: Report, start: float, value: Callable[[Prefix], float | None]
) -> tuple[Series, ...]:
    """Return a line per modality that has values; `start` is the value without any code."""
    return tuple(
        _line(tokenizer.modality, tokenizer.modality, [start, *map(value, tokenizer.prefixes)])
        for tokenizer in report.tokenizers
        if any(map(numbers.usable, map(value, tokenizer.prefixes)))
    )


def _line(name: str, role: Role, values: Sequence[float | None]) -> Series:
    return Series(name=name, x=tuple(map(float, range(len(values)))), y=tuple(values), role=role)


def parameter_rows(parameters: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return up to 200 rows of group, name and value; the group ends at the first dot."""
    parted = ((*_split_name(name), value) for name, value in parameters.items())
    return sorted(parted)[:200]


def _split_name(name: str) -> tuple[str, str]:
    group, dot, rest = name.partition(".")
    return (group, rest) if dot else ("", name)
