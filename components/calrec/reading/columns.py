"""Which column of a table is what: by its name, and by what stands in it."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calrec.reading import column_names, times

Records = Sequence[Mapping[str, Any]]

NONE = "none"
"""As a setting `data.columns.ROLE`: the files have no such column."""
_LETTER = re.compile(r"[^\W\d_]")
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?")
_SHOWN, _AGREE, _FEW = 40, 0.8, 10
_MOST_KINDS = 12


@dataclass
class Columns:
    """Roles of the columns of a file, and what a person should know of them."""

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def plain(name: str) -> str:
    """A column's name for comparison: lower case, letters and digits only, without a type suffix such as `:token`."""
    return "".join(c for c in name.partition(":")[0].lower() if c.isalnum())


def usual(role: str, header: Collection[str]) -> list[str]:
    """The columns of `header` that usually have this role, the likeliest first."""
    by_name: dict[str, str] = {}
    for name in header:
        by_name.setdefault(plain(name), name)
    return [by_name[name] for name in column_names.USUAL[role] if name in by_name]


def find(
    file: str, header: Sequence[str], records: Records, wanted: Sequence[str], given: Mapping[str, str], log: bool
) -> Columns:
    """The columns of a table's file.

    Args:
        file: its name, for warnings.
        header: its columns.
        records: its first records.
        wanted: the roles to find, the ids first.
        given: role → column, as the settings say.
        log: whether it holds events; else its rows are items.
    """
    found, taken = Columns({role: (name,) for role, name in given.items()}), set(given.values())
    table = _Table(records, found.columns)
    for role in wanted:
        if role in given:
            continue
        fitting = []
        for name in usual(role, [column for column in header if column not in taken]):
            reason = table.unfit(role, name) if log else ""
            if not reason:
                fitting.append(name)
            elif reason != "-" and not fitting:
                found.warnings.append(f"{file}: {reason}; {_setting(role, name)} takes it all the same")
        if fitting:
            found.columns[role] = (fitting[0],)
            taken.add(fitting[0])
        if others := [name for name in fitting[1:] if plain(name) not in column_names.ROUGH]:
            found.warnings.append(
                f"{file}: the {role} may be {fitting[0]} (taken) or {' or '.join(others)}; {_setting(role, others[0])} "
                "takes the other"
            )
    if log and "time" in wanted and "time" not in given:
        _find_time(file, table, header, taken, found)
    return found


def kinds(file: str, header: Sequence[str], records: Records, filtered: Collection[str]) -> list[str]:
    """A warning for a column that tells kinds of events apart and that no filter names: all of them count."""
    by_name, found = {plain(name): name for name in reversed(header)}, []
    for column in (by_name[name] for name in column_names.KINDS if name in by_name and by_name[name] not in filtered):
        counts = Counter(str(value) for record in records if (value := record.get(column)) not in (None, ""))
        if 1 < len(counts) <= _MOST_KINDS:
            listed = ", ".join(f"{value[:_SHOWN]} ({n:,})" for value, n in counts.most_common(4))
            found.append(
                f"{file}: {column} tells kinds of events apart, such as {listed}, and all of them count; "
                f"--set 'data.filters={column}={counts.most_common()[-1][0]}' takes one kind"
            )
    return found


def lists_of_records(records: Records) -> str:
    """The first column that holds lists of records, such as the items of an order; empty: none."""
    cells = ((name, value) for record in records for name, value in record.items())
    return next((name for name, value in cells if isinstance(value, list) and value and isinstance(value[0], dict)), "")


def _setting(role: str, name: str) -> str:
    return f"--set data.columns.{role}={name}"


def _find_time(file: str, table: "_Table", header: Sequence[str], taken: set[str], found: Columns) -> None:
    """A day and an hour in two columns; a column of times with an unusual name."""
    if day := found.columns.get("time"):
        hours = [n for n in header if n not in taken and plain(n).endswith("time") and table.all_match(n, _CLOCK)]
        if hours and times.are_days(table.texts(day[0])):
            found.columns["time"] = (day[0], hours[0])
        elif table.all_match(day[0], _CLOCK):
            days = [n for n in header if n not in taken and times.are_days(table.texts(n))]
            found.columns["time"] = (days[0], day[0]) if days else day
        return
    likely = [name for name in header if name not in taken and times.are_times(table.values(name))]
    written = [name for name in likely if not times.are_numbers(table.values(name))]
    if written:
        found.columns["time"] = (written[0],)
        also = f" So may {' and '.join(written[1:])}: {_setting('time', written[1])}." if written[1:] else ""
        found.warnings.append(f"{file}: {written[0]} is taken as the time, as its values look like times.{also}")
    elif likely:
        found.warnings.append(
            f"{file} has no column that is called a time, but {likely[0]} looks like one; {_setting('time', likely[0])}"
        )


class _Table:
    """The first records of a file of events, by column."""

    def __init__(self, records: Records, columns: Mapping[str, tuple[str, ...]]):
        self._records, self._columns = records, columns

    def values(self, column: str) -> list[Any]:
        """What stands in a column, empty cells left out."""
        return [value for record in self._records if (value := record.get(column)) not in (None, "")]

    def texts(self, column: str) -> list[str]:
        """The same as text."""
        return [str(value).strip() for value in self.values(column)]

    def all_match(self, column: str, pattern: re.Pattern[str]) -> bool:
        """Whether the column has values, and all fit."""
        found = self.texts(column)
        return bool(found) and all(map(pattern.fullmatch, found))

    def unfit(self, role: str, column: str) -> str:
        """Why a column with a usual name has another role: a sentence, or "-" where none is needed; empty: it fits."""
        found = self.values(column)
        if not found:
            return "-" if self._records and role in ("user", "item") else ""
        if role == "item" and plain(column) == "id" and _are_row_numbers(found):
            return "-"
        if role == "weight" and all(isinstance(value, str) for value in found) and not any(map(times.is_number, found)):
            return f"{column} holds no numbers ({found[0]!r}), so that it is no rating or quantity"
        if role == "title":
            return self._unfit_title(column)
        return ""

    def _unfit_title(self, column: str) -> str:
        if not any(_LETTER.search(text) for text in self.texts(column)):
            return "-"
        of_item, of_user = (self._agreement(column, self._columns.get(key, ("",))[0]) for key in ("item", "user"))
        if of_user is not None and (of_item is None or of_user > max(of_item, _AGREE)):
            return f"{column} belongs to the user and not to the item, so that it is no title"
        if of_item is not None and of_item < _AGREE:
            some = list(dict.fromkeys(text[:_SHOWN] for text in self.texts(column)))[:2]
            return (
                f"{column} differs between the rows of one item ({', '.join(map(repr, some))}), so that it is no title"
            )
        return ""

    def _agreement(self, column: str, key: str) -> float | None:
        """Share of the rows that have the most frequent value of their key, among keys with several rows; None: few."""
        groups: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self._records:
            if (value := record.get(column)) not in (None, "") and record.get(key) not in (None, ""):
                groups[str(record[key])][str(value)] += 1
        several = [group for group in groups.values() if group.total() > 1]
        rows = sum(group.total() for group in several)
        if rows < _FEW or len({value for group in several for value in group}) < 2:
            return None
        return sum(max(group.values()) for group in several) / rows


def _are_row_numbers(found: Sequence[Any]) -> bool:
    """Whether the values count the rows."""
    try:
        numbers = [int(str(value)) for value in found]
    except ValueError:
        return False
    return len(numbers) >= 3 and all(b - a == 1 for a, b in itertools.pairwise(numbers))
