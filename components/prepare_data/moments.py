"""Parses ISO 8601 times. A time without a zone is UTC."""

from datetime import UTC, date, datetime, time, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_moment(text: str) -> datetime | None:
    """Return the time with its zone, UTC if the text has none; None if it is no ISO 8601 time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def has_zone(text: str) -> bool:
    """Return whether an ISO 8601 time contains a zone."""
    return datetime.fromisoformat(text).tzinfo is not None


def parse_limit(text: str) -> datetime | None:
    """Return the time, or the last microsecond of a date; None if the text is neither."""
    try:
        return datetime.combine(date.fromisoformat(text), time.max, UTC)
    except ValueError:
        return parse_moment(text)


def to_micros(moment: datetime) -> int:
    """Return microseconds since 1970, exactly; a float of seconds would lose the last digits."""
    return (moment - EPOCH) // timedelta(microseconds=1)
