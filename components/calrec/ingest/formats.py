"""Which files of a source hold events and which hold items, and what format they are in: detected, and said."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from calrec.config_data import DataConfig, event_filter
from calrec.files import File
from calrec.ingest import columns, times
from calrec.ingest.archives import unpacked
from calrec.ingest.layouts import ATTRIBUTES, Layout
from calrec.ingest.look import Look, look

_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".inter", ".item", ".dat", ".data")
_ARCHIVES = (".zip", ".xlsx", ".xls", ".ods")
_ITEM_NAMES = ("meta*", "*meta_*", "item*", "product*", "movie*", "article*", "catalog*", "book*", "*.item", "u.item")
# format → names of its event files and of its item files; where a file has a header, it must fit too
_NAMED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sequences": (("sequences.jsonl",), ("items.jsonl",)),
    "recbole": (("*.inter",), ("*.item",)),
    "movielens": (("ratings.csv", "ratings.dat", "u.data"), ("movies.csv", "movies.dat", "u.item")),
}
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
# Column names of files that have none.
_HEADERS: Mapping[str, tuple[str, ...]] = {
    "ratings.dat": ("userId", "movieId", "rating", "timestamp"),
    "movies.dat": ("movieId", "title", "genres"),
    "u.data": ("userId", "movieId", "rating", "timestamp"),
    "u.item": ("movieId", "title", "released", "video", "url", *_GENRES),
}
_DELIMITERS = {"ratings.dat": "::", "movies.dat": "::", "u.data": "\t", "u.item": "|"}
_REVIEW = {"user": ("reviewerID",), "item": ("asin",), "time": ("unixReviewTime",), "weight": ("overall",)}
_PRODUCT = {
    "item": ("asin",), "title": ("title",), "category": ("category", "categories", "main_cat"), "brand": ("brand",),
    "price": ("price",),
}  # fmt: skip
# format → columns of its event files and of its item files, where they are always the same
_COLUMNS: Mapping[str, tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]] = {
    "amazon2014": (_REVIEW, _PRODUCT),
    "amazon2018": (_REVIEW, _PRODUCT),
    "amazon2023": (
        {"user": ("user_id",), "item": ("parent_asin",), "time": ("timestamp",), "weight": ("rating",)},
        {**_PRODUCT, "item": ("parent_asin",), "category": ("categories", "main_category"), "brand": ("store",)},
    ),
    "movielens": (
        {"user": ("userId",), "item": ("movieId",), "time": ("timestamp",), "weight": ("rating",)},
        {"item": ("movieId",), "title": ("title",), "category": ("genres",)},
    ),
    "sequences": (
        {"user": ("user_id",), "item": ("items",)},
        {**_PRODUCT, "item": ("item_id",), "category": ("categories", "category")},
    ),
}
_UNTIMED = (
    "no timestamps: the order of the files is taken for the order of the events; if a column holds times, name it with "
    "--set data.columns.time=NAME"
)
_TIME_FORMAT = {"amazon2014": "s", "amazon2018": "s", "amazon2023": "ms", "movielens": "s"}


@dataclass(frozen=True)
class Plan:
    """What to read of a source, and how."""

    format: str
    events: Sequence[tuple[File, Layout]]
    items: Sequence[tuple[File, Layout]]
    notes: Sequence[str] = field(default_factory=list)
    warnings: Sequence[str] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """False: the log has no timestamps, the order of the file counts."""
        return all("time" in layout.columns for _, layout in self.events)


def plan(source: str, files: Sequence[File], data: DataConfig) -> Plan:
    """Find the files and the format of a source.

    Raises:
        FileNotFoundError: no file of events.
        ValueError: a column map that does not fit; a format that does not fit the files; an archive that is damaged.
    """
    files = unpacked(files)
    names = {file.name: _plain_name(file.name) for file in files}
    known = [f for f in files if names[f.name].endswith(_ENDINGS) or _matches(f.name, (data.events, data.items))]
    looks = {file.name: _look(file, data) for file in known if _is_wanted(file, data)}
    full = [file for file in known if file.name in looks and not looks[file.name].empty]
    form = _format(full, looks, data)
    events, items, warnings = _divide(full, looks, form, data)
    if not events:
        _refuse(source, files, known, full, looks, data)
    reader = _Reader(form, data, bool(items))
    notes = [f"format {form}" + (", detected from the files" if data.format == "auto" else "")]
    event_layouts = [(file, reader.events(file, looks[file.name])) for file in events]
    item_layouts = [(file, reader.items(file, looks[file.name])) for file in items]
    notes += _said("events", event_layouts) + _said("items", item_layouts) + reader.notes
    empty = sorted(file.name for file in known if file.name in looks and looks[file.name].empty)
    ignored = sorted(set(names) - {file.name for file in (*events, *items)} - set(empty))
    notes += [f"empty: {_listed(empty)}"] if empty else []
    notes += [f"not read: {_listed(ignored)}"] if ignored else []
    warnings += [said for file in (*events, *items) for said in looks[file.name].warnings] + reader.warnings
    found = Plan(form, event_layouts, item_layouts, notes, list(dict.fromkeys(warnings)))
    late = [] if found.timed or form == "sequences" else [_UNTIMED]
    return replace(found, warnings=[*found.warnings, *late])


def _refuse(
    source: str, files: Sequence[File], known: Sequence[File], full: Sequence[File], looks: Mapping[str, Look],
    data: DataConfig,
) -> None:  # fmt: skip
    """Say why there is no file of events."""
    likely = [file for file in full if not _is_named(file, _ITEM_NAMES)]
    empty = [file.name for file in known if file.name in looks and looks[file.name].empty]
    if empty and not likely:
        raise ValueError(f"{source} holds only empty files: {_listed(empty)}")
    if (likely or full) and not data.events:
        first = (likely or full)[0]
        _Reader("table", data, has_items=True).events(first, looks[first.name])  # says which column is missing
    raise FileNotFoundError(
        f"{source} holds no file of events (data.format={data.format}, data.events={data.events or 'all'}); it "
        f"needs files that end in {', '.join((*_ENDINGS, *_ARCHIVES))}, also with .gz or .zst; found: "
        f"{_listed(sorted(file.name for file in files)) or 'nothing'}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _plain_name(name: str) -> str:
    """Last part of the path in lower case, without the ending of a compression."""
    return PurePosixPath(name).name.lower().removesuffix(".gz").removesuffix(".zst")


def _matches(name: str, globs: Sequence[str]) -> bool:
    path = PurePosixPath(name)
    return any(glob and (fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(path.name, glob)) for glob in globs)


def _is_wanted(file: File, data: DataConfig) -> bool:
    """Whether a file may be read: with a glob of the events, only what is in it or what describes items."""
    return not data.events or _matches(file.name, (data.events, data.items)) or _is_named(file, _ITEM_NAMES)


def _is_named(file: File, globs: Sequence[str]) -> bool:
    return _matches(_plain_name(file.name), globs)


def _look(file: File, data: DataConfig) -> Look:
    name = _plain_name(file.name)
    delimiter = data.delimiter.replace("\\t", "\t") or _DELIMITERS.get(name, "")
    if header := _HEADERS.get(name):  # MovieLens, in UTF-8 or in Latin-1
        seen = look(file, name, header, delimiter, data.encoding, atomic=True)
        guessed = data.encoding == "auto" and seen.warnings
        return look(file, name, header, delimiter, "latin-1", atomic=True) if guessed else seen
    header = () if _is_named(file, _ITEM_NAMES) else data.header
    return look(file, name, header, delimiter, data.encoding)


# --- formats ----------------------------------------------------------------------------------------------------


def _format(files: Sequence[File], looks: Mapping[str, Look], data: DataConfig) -> str:
    """The format, as the settings, names and headers say."""
    if data.format != "auto":
        return data.format
    if not data.events and not any(vars(data.columns).values()):
        for form, (globs, _) in _NAMED.items():
            if any(_is_named(file, globs) and _fits(form, looks[file.name]) for file in files):
                return form
    meta = [looks[file.name] for file in files if _is_named(file, _ITEM_NAMES)]
    for file in files:
        columns = set(looks[file.name].header)
        if {"reviewerID", "asin"} <= columns:
            return "amazon2014" if "helpful" in columns or any(one.kind == "literal" for one in meta) else "amazon2018"
        if {"user_id", "parent_asin"} <= columns:
            return "amazon2023"
    return "table"


def _fits(form: str, seen: Look) -> bool:
    """Whether a file has the columns of the events of its format."""
    needed = _COLUMNS.get(form, ({}, {}))[0]
    return all(any(name in seen.header for name in needed[role]) for role in ("user", "item") if role in needed)


# --- events and items -------------------------------------------------------------------------------------------


def _divide(
    files: Sequence[File], looks: Mapping[str, Look], form: str, data: DataConfig
) -> tuple[list[File], list[File], list[str]]:
    """(event files, item files, warnings): by the settings, the names of a format, or the columns."""
    if data.items and not any(_matches(file.name, (data.items,)) for file in files):
        raise FileNotFoundError(f"no file fits data.items={data.items}; found: {_listed([f.name for f in files])}")
    shapes = {file.name: _shape(file, looks[file.name], form, data) for file in files}
    events = [file for file in files if "user" in shapes[file.name]]
    items = [file for file in files if shapes[file.name] == {"item"}]
    items = items or [file for file in files if shapes[file.name] == {"unknown item"}]  # its reader says what it lacks
    if form in _NAMED or data.events or len({frozenset(shapes[file.name]) for file in events}) < 2:
        return events, items, []
    weight: dict[frozenset[str], int] = {}
    for file in events:
        shape = frozenset(shapes[file.name])
        weight[shape] = weight.get(shape, 0) + max(file.size, 1)
    best = max(weight, key=lambda shape: (weight[shape], sorted(shape)))
    main = [file for file in events if shapes[file.name] == best]
    other = [file.name for file in events if shapes[file.name] != best]
    warning = (
        f"{_listed(other)} could hold events too, but has not the columns of {main[0].name} "
        f"({', '.join(sorted(best))}), and is not read; --set data.events=GLOB says which files hold events"
    )
    return main, items, [warning]


def _shape(file: File, seen: Look, form: str, data: DataConfig) -> set[str]:
    """Roles of an event file's columns, {"item"} for an item file, nothing for another one."""
    of_events, of_items = _NAMED.get(form, ((), _ITEM_NAMES))
    given = {role for role, name in vars(data.columns).items() if name in seen.header}
    fixed = _COLUMNS.get(form, ({}, {}))[0]
    if _matches(file.name, (data.items,)):
        return {"item"}
    is_event, is_item = _matches(file.name, (data.events,)), _is_named(file, of_items)
    if is_event or of_events:
        is_event = is_event or (not data.events and not is_item and _is_named(file, of_events))
        return {"user", "item"} if is_event else {"item"} if is_item and not data.items else set()
    found = given | {
        role
        for role in ("user", "item", "time", "weight")
        if any(name in seen.header for name in fixed.get(role, ())) or (not fixed and columns.usual(role, seen.header))
    }
    if {"user", "item"} <= found and not (is_item and "time" not in found):
        return found if not data.events else set()
    if data.items or (not is_item and not any(columns.usual(name, seen.header) for name in ATTRIBUTES)):
        return set()
    return {"item"} if "item" in found or fixed else {"unknown item"} if is_item else set()


def _said(what: str, layouts: Sequence[tuple[File, Layout]]) -> list[str]:
    """Which files are read, and which column is what."""
    if not layouts:
        return []
    its = layouts[0][1].columns.items()
    said = ", ".join(f"{role} = {(' and ' if role == 'time' else ' or ').join(names)}" for role, names in its)
    names = [file.name for file, _ in layouts]
    return [f"{what} from {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {said}"]


class _Reader:
    """Layouts of one format's files; files of one header are laid out alike."""

    def __init__(self, form: str, data: DataConfig, has_items: bool):
        self._form, self._data, self._has_items = form, data, has_items
        self._given = {role: name for role, name in vars(data.columns).items() if name}
        self._decided: dict[tuple[Any, ...], tuple[dict[str, tuple[str, ...]], str]] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def events(self, file: File, seen: Look) -> Layout:
        """Layout of an event file."""
        filters = tuple(_event_filter(text, file.name, seen) for text in self._data.filters)
        if (key := (seen.kind, seen.header)) not in self._decided:
            found = self._event_columns(file, seen)
            self._decided[key] = found, self._time_format(found, seen)
        found, time_format = self._decided[key]
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
        flags = _GENRES[1:] if _plain_name(file.name) == "u.item" else ()
        return seen.layout(found, separator=self._separator(found), flags=flags)

    def _columns(self, file: File, seen: Look, which: int, roles: Sequence[str]) -> dict[str, tuple[str, ...]]:
        fixed = _COLUMNS.get(self._form, ({}, {}))[which]
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
        if given != "auto" or self._form in _TIME_FORMAT or "time" not in found:
            return _TIME_FORMAT.get(self._form, "auto") if given == "auto" else given
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
