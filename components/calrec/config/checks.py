"""What a setting must be: each check says the value and the remedy."""

import codecs
import datetime
from collections.abc import Sequence


def check(ok: bool, message: str) -> None:
    """A ValueError with the message, unless `ok`."""
    if not ok:
        raise ValueError(message)


def at_least_zero(section: object, *names: str) -> None:
    """A ValueError that names the first of these settings of the section that is below 0, or not finite."""
    for name in names:
        check(0 <= getattr(section, name) < float("inf"), f"{name} must be >= 0, got {getattr(section, name)}")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """A ValueError that lists the allowed values."""
    check(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def name(what: str, value: str) -> str:
    """The value, if it can name a category, target or method in files, addresses and the registry.

    Raises:
        ValueError: it cannot; with the value and the rule.
    """
    signs = value.replace("\u200c", "").replace("\u200d", "")  # joiners of Persian and Hindi letters
    ok = 0 < len(value) <= 100 and len(value.encode("utf-8", "surrogatepass")) <= 200 and signs.isprintable()
    ok = ok and value == value.strip() and (value[0].isalnum() or value[0] == "_") and not set(value) & set("/\\:,=")
    check(
        ok,
        f"{what} {value!r} cannot be a name; use at most 100 characters (200 bytes), a letter, digit or _ first, no "
        "control characters and none of / \\ : , =",
    )
    return value


def instant(name: str, text: str) -> int | None:
    """An ISO 8601 date or time as milliseconds since 1970, UTC unless it says otherwise; None when it is empty."""
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be an ISO date or time such as 2026-05-01, got {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)


def is_encoding(name: str) -> bool:
    """Whether Python has a text encoding of this name."""
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except LookupError:
        return False


def iso(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC."""
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds" if milliseconds % 1000 else "seconds")
