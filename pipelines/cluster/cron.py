"""Cron expressions as Kubeflow Pipelines reads them: six fields, seconds first, in UTC.

The backend uses github.com/robfig/cron, version 1. The library cronsim finds the same times, but it
also accepts expressions that the backend refuses, such as weekday 7. `parse` refuses those.
"""

import re
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from cronsim import CronSim, CronSimError

from macrec.core.errors import UserError

_FIELDS = {
    "second": "0 to 59",
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day": "1 to 31",
    "month": "1 to 12, or JAN to DEC",
    "weekday": "0 (Sunday) to 6, or SUN to SAT",
}
_VALUE = r"(\d{1,2}|[A-Z]{3})"
_ITEM = rf"(\*|{_VALUE}(-{_VALUE})?)(/\d+)?"
_FIELD = re.compile(rf"{_ITEM}(,{_ITEM})*")
_ANY_DATE = datetime(2024, 1, 1, tzinfo=UTC)


class Cron(NamedTuple):
    """A valid expression, as the user wrote it and as cronsim reads it."""

    text: str
    cronsim_text: str

    def next_times(self, after: datetime, count: int) -> list[datetime]:
        """Return the next `count` times after a moment, in UTC."""
        return list(islice(CronSim(self.cronsim_text, after.astimezone(UTC)), count))


def parse(text: str) -> Cron:
    """Parse and check a cron expression.

    Raises:
        UserError: if the expression is invalid or never matches. One message lists all invalid
            fields.
    """
    parts = text.split()
    if len(parts) != len(_FIELDS):
        hint = f' Put the seconds first: "0 {text}".' if len(parts) == 5 else ""
        fields = ", ".join(_FIELDS)
        raise UserError(f"cron {text!r}: {len(parts)} fields, expected 6 ({fields}).{hint}")
    read = {name: _for_cronsim(name, part) for name, part in zip(_FIELDS, parts, strict=True)}
    invalid = [
        f"{name} {part!r} (allowed: {_FIELDS[name]})"
        for name, part in zip(_FIELDS, parts, strict=True)
        if not _is_valid(name, read[name])
    ]
    if invalid:
        syntax = "Write *, a number, a list 1,2, a range 1-5 or a step */10."
        raise UserError(f"cron {text!r}: invalid {'; '.join(invalid)}. {syntax}")
    cron = Cron(" ".join(parts), " ".join(read.values()))
    try:
        cron.next_times(_ANY_DATE, 1)
    except CronSimError as error:
        raise UserError(f"cron {text!r}: no year has such a day. Change day or month.") from error
    return cron


def in_words(cron: Cron) -> str:
    """Describe the expression in words, such as `At 03:00 on Monday`."""
    return CronSim(cron.cronsim_text, _ANY_DATE).explain()


def _for_cronsim(name: str, part: str) -> str:
    """Return a field that means to cronsim what `part` means to the backend."""
    items = sorted(part.upper().replace("?", "*").split(","), key=lambda item: item[:1] != "*")
    if name == "weekday":  # cronsim counts to 7, so `1/2` would include Sunday
        items = [re.sub(rf"^{_VALUE}/", r"\1-6/", item.replace("SAT", "6")) for item in items]
    return ",".join(re.sub(rf"^{_VALUE}-\1/0*[1-9]\d*$", r"\1", item) for item in items)


def _is_valid(name: str, part: str) -> bool:
    if not _FIELD.fullmatch(part) or (name == "weekday" and re.search(r"(^|[,-])0?7", part)):
        return False
    try:
        CronSim(" ".join(part if field == name else "*" for field in _FIELDS), _ANY_DATE)
    except CronSimError:
        return False
    return True
