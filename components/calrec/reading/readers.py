"""The layout of each file of a source: which of its columns is what, as the settings, the format or the file says."""

from collections.abc import Mapping, Sequence
from typing import Any

from calrec.config.data import DataConfig, event_filter
from calrec.reading import columns, formats, times
from calrec.reading.detect import Look
from calrec.reading.layouts import ATTRIBUTES, Layout
from calrec.storage.files import File


class Reader:
    """Layouts of one format's files; files of one header are laid out alike."""

    def __init__(self, form: str, data: DataConfig, has_items: bool):
        self._form, self._data, self._has_items = form, data, has_items
        self._given = {role: name for role, name in vars(data.columns).items() if name}
        self._item = ""
        self._decided: dict[tuple[Any, ...], tuple[dict[str, tuple[str, ...]], str]] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def events(self, file: File, seen: Look) -> Layout:
        """Layout of an event file."""
        filters = tuple(_event_filter(text, file.name, seen) for text in self._data.filters)
        if (key := (seen.kind, seen.header)) not in self._decided:
            found = self._event_columns(file, seen)
            self._decided[key] = found, self._time_format(found, seen)
            if self._form == "table":
                self.warnings += columns.kinds(file.name, seen.header, seen.records(), [name for name, *_ in filters])
        found, time_format = self._decided[key]
        self._item = found["item"][0]
        return seen.layout(found, filters=filters, sequences=self._form == "sequences", time_format=time_format)

    def _event_columns(self, file: File, seen: Look) -> dict[str, tuple[str, ...]]:
        roles: tuple[str, ...] = ("user", "item", "time", "weight")
        if self._form == "table" and not self._has_items:
            roles += ATTRIBUTES
        found = self._columns(file, seen, 0, roles)
        for role in ("user", "item"):
            if role in found:
                continue
            if seen.looks_headless:
                raise ValueError(
                    f"{file.name} seems to have no header, its first line is {seen.delimiter.join(seen.header)!r}; "
                    f"name its {len(seen.header)} columns with --set data.header=user,item,…"
                )
            if inner := columns.lists_of_records(seen.records()):
                raise ValueError(
                    f"{file.name} has no column that looks like the {role}, but {inner} holds lists of records; "
                    "write a row for each record of such a list"
                )
            raise ValueError(
                f"{file.name} has no column that looks like the {role}; name it with "
                f"--set data.columns.{role}=NAME, or name the event files with --set data.events=GLOB; "
                f"its columns: {', '.join(seen.header) or 'none'}"
            )
        return found

    def items(self, file: File, seen: Look) -> Layout:
        """Layout of an item file."""
        found = self._columns(file, seen, 1, ("item", *ATTRIBUTES))
        if "item" not in found:
            raise ValueError(
                f"{file.name} has no column that looks like the item; its columns: {', '.join(seen.header) or 'none'}"
            )
        flags = formats.GENRES[1:] if formats.plain_name(file.name) == "u.item" else ()
        return seen.layout(found, separator=self._separator(found), flags=flags)

    def _columns(self, file: File, seen: Look, which: int, roles: Sequence[str]) -> dict[str, tuple[str, ...]]:
        fixed = formats.COLUMNS.get(self._form, ({}, {}))[which]
        absent = {role for role, name in self._given.items() if name == columns.NONE and name not in seen.header}
        roles = [role for role in roles if role not in absent]
        given = {
            role: names
            for role in roles
            if (name := self._given.get(role)) and (names := self._given_columns(name, role, file, seen, which == 0))
        }
        if fixed:
            known = {
                role: tuple(n for n in fixed.get(role, ()) if n in seen.header or _is_json(seen)) for role in roles
            }
            return {role: names for role, names in {**known, **given}.items() if names}
        if which == 1 and "item" not in given and self._item in seen.header:
            given["item"] = (self._item,)  # what the events call it
        single = {role: names[0] for role, names in given.items()}
        found = columns.find(file.name, seen.header, seen.records(), roles, single, log=which == 0)
        self.warnings += found.warnings
        return {role: given.get(role) or found.columns[role] for role in roles if role in found.columns}

    def _given_columns(self, name: str, role: str, file: File, seen: Look, needed: bool) -> tuple[str, ...]:
        """The columns that a setting names; a day and an hour as DAY+HOUR."""
        names = [name] if name in seen.header or role != "time" else name.split("+")
        if not needed and names[0] not in seen.header:
            return ()
        return tuple(seen.column(one, file.name, f"data.columns.{role}") for one in names)

    def _separator(self, found: Mapping[str, tuple[str, ...]]) -> str:
        if self._form == "movielens":
            return "|"
        return " " if found.get("category", ("",))[0].endswith(":token_seq") else ""

    def _time_format(self, found: Mapping[str, tuple[str, ...]], seen: Look) -> str:
        given = self._data.time_format
        if given != "auto" or self._form in formats.TIME_FORMAT or "time" not in found:
            return formats.TIME_FORMAT.get(self._form, "auto") if given == "auto" else given
        names = found["time"]
        joined = [_joined([record.get(name) for name in names]) for record in seen.records()]
        pattern = times.time_format(" and ".join(names), [value for value in joined if value not in (None, "")])
        if pattern != "auto":
            self.notes.append(f"times are read as {pattern} (data.time_format)")
        return pattern


def _joined(cells: Sequence[Any]) -> Any:
    """A single cell as it is, a day and an hour as one text."""
    return cells[0] if len(cells) == 1 else " ".join(str(cell).strip() for cell in cells if cell is not None)


def _is_json(seen: Look) -> bool:
    return seen.kind in ("json", "literal")


def _event_filter(text: str, name: str, seen: Look) -> tuple[str, str, str]:
    """A filter of the settings whose column is in the file."""
    column, operator, value = event_filter(text)
    return seen.column(column, name, "data.filters"), operator, value
