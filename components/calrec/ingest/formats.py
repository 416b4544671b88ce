"""Which files of a source hold events and which hold items, and what format they are in: detected, and said."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from calrec.config_data import DataConfig, event_filter
from calrec.files import File
from calrec.ingest.layouts import Layout
from calrec.ingest.look import Look, look

_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".inter", ".item", ".dat", ".data")
_ITEM_NAMES = ("meta*", "*meta_*", "item*", "product*", "movie*", "article*", "catalog*", "*.item", "u.item")
# format → names of its event files and of its item files
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
_TIME_FORMAT = {"amazon2014": "s", "amazon2018": "s", "amazon2023": "ms", "movielens": "s"}


@dataclass(frozen=True)
class Plan:
    """What to read of a source, and how."""

    format: str
    events: Sequence[tuple[File, Layout]]
    items: Sequence[tuple[File, Layout]]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """False: the log has no timestamps, the order of the file counts."""
        return all("time" in layout.columns for _, layout in self.events)


def plan(source: str, files: Sequence[File], data: DataConfig) -> Plan:
    """Find the files and the format of a source.

    Raises:
        FileNotFoundError: no file of events.
        ValueError: a column map that does not fit; a format that does not fit the files.
    """
    names = {file.name: _plain_name(file.name) for file in files}
    known = [f for f in files if names[f.name].endswith(_ENDINGS) or _matches(f.name, (data.events, data.items))]
    form = _by_name(known, data)
    events, items = _divide(known, form, data)
    if not events:
        raise FileNotFoundError(
            f"{source} holds no file of events (data.format={data.format}, data.events={data.events or 'all'}); it "
            f"needs files that end in {', '.join(_ENDINGS)}, also with .gz or .zst; found: "
            f"{', '.join(sorted(names)[:8]) or 'nothing'}"
        )
    looks = {file.name: _look(file, data) for file in (*events, *items)}
    empty = [file.name for file in (*events, *items) if looks[file.name].empty]
    events, items = ([file for file in some if file.name not in empty] for some in (events, items))
    if not events:
        raise ValueError(f"{source} holds only empty files: {_listed(empty)}")
    form = form or _by_content(looks[events[0].name], [looks[f.name] for f in items])
    reader = _Reader(form, data, bool(items))
    ignored = sorted(set(names) - {file.name for file in (*events, *items)} - set(empty))
    notes = [f"format {form}" + (", detected from the files" if data.format == "auto" else "")]
    event_layouts = [(file, reader.events(file, looks[file.name])) for file in events]
    item_layouts = [(file, reader.items(file, looks[file.name])) for file in items]
    notes += _said("events", event_layouts) + _said("items", item_layouts)
    notes += [f"empty: {_listed(empty)}"] if empty else []
    notes += [f"not read: {_listed(ignored)}"] if ignored else []
    found = Plan(form, event_layouts, item_layouts, notes)
    if not found.timed:
        notes.append("no timestamps: the order of the files is taken as it is")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _plain_name(name: str) -> str:
    """Last part of the path in lower case, without the ending of a compression."""
    return PurePosixPath(name).name.lower().removesuffix(".gz").removesuffix(".zst")


def _matches(name: str, globs: Sequence[str]) -> bool:
    path = PurePosixPath(name)
    return any(glob and (fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(path.name, glob)) for glob in globs)


def _by_name(files: Sequence[File], data: DataConfig) -> str:
    """The format when the names or the settings tell it; else empty."""
    if data.format != "auto":
        return data.format
    if data.events or any(vars(data.columns).values()):
        return ""
    for form, (events, _) in _NAMED.items():
        if any(_matches(_plain_name(file.name), events) for file in files):
            return form
    return ""


def _divide(files: Sequence[File], form: str, data: DataConfig) -> tuple[list[File], list[File]]:
    """(event files, item files)."""
    of_events, of_items = _NAMED.get(form, ((), _ITEM_NAMES))
    if data.items:
        items = [f for f in files if _matches(f.name, (data.items,))]
        if not items:
            raise FileNotFoundError(f"no file fits data.items={data.items}; found: {', '.join(f.name for f in files)}")
    else:
        items = [f for f in files if _matches(_plain_name(f.name), of_items) and not _matches(f.name, (data.events,))]
    rest = [f for f in files if f not in items]
    if data.events:
        return [f for f in rest if _matches(f.name, (data.events,))], items
    return [f for f in rest if not of_events or _matches(_plain_name(f.name), of_events)], items


def _look(file: File, data: DataConfig) -> Look:
    name = _plain_name(file.name)
    delimiter = data.delimiter.replace("\\t", "\t") or _DELIMITERS.get(name, "")
    return look(file, name, _HEADERS.get(name, ()), delimiter, data.encoding)


def _by_content(events: Look, items: Sequence[Look]) -> str:
    columns = set(events.header)
    if events.kind in ("json", "literal"):
        if {"reviewerID", "asin"} <= columns:
            return "amazon2014" if any(one.kind == "literal" for one in items) or "helpful" in columns else "amazon2018"
        if {"user_id", "parent_asin"} <= columns:
            return "amazon2023"
    return "table"


def _said(what: str, layouts: Sequence[tuple[File, Layout]]) -> list[str]:
    """Which files are read, and which column is what."""
    if not layouts:
        return []
    columns = ", ".join(f"{role} = {' or '.join(names)}" for role, names in layouts[0][1].columns.items())
    names = [file.name for file, _ in layouts]
    return [f"{what} from {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {columns}"]


class _Reader:
    """Layouts of one format's files."""

    def __init__(self, form: str, data: DataConfig, has_items: bool):
        self._form, self._data, self._has_items = form, data, has_items
        self._given = {role: name for role, name in vars(data.columns).items() if name}

    def events(self, file: File, seen: Look) -> Layout:
        """Layout of an event file."""
        roles: tuple[str, ...] = ("user", "item", "time", "weight")
        if self._form == "table" and not self._has_items:
            roles += ("title", "category", "brand", "price")
        columns = self._columns(file, seen, 0, roles)
        for role in ("user", "item"):
            if role not in columns:
                raise ValueError(
                    f"{file.name} has no column that looks like the {role}; name it with "
                    f"--set data.columns.{role}=NAME, or name the event files with --set data.events=GLOB; "
                    f"its columns: {', '.join(seen.header) or 'none'}"
                )
        filters = tuple(_event_filter(text, file.name, seen) for text in self._data.filters)
        return seen.layout(
            columns, filters=filters, sequences=self._form == "sequences", time_format=self._time_format()
        )

    def items(self, file: File, seen: Look) -> Layout:
        """Layout of an item file."""
        columns = self._columns(file, seen, 1, ("item", "title", "category", "brand", "price"))
        if "item" not in columns:
            raise ValueError(
                f"{file.name} has no column that looks like the item; its columns: {', '.join(seen.header) or 'none'}"
            )
        flags = _GENRES[1:] if _plain_name(file.name) == "u.item" else ()
        return seen.layout(columns, separator=self._separator(columns, seen), flags=flags)

    def _columns(self, file: File, seen: Look, which: int, roles: Sequence[str]) -> dict[str, tuple[str, ...]]:
        fixed = _COLUMNS.get(self._form, ({}, {}))[which]
        found: dict[str, tuple[str, ...]] = {}
        for role in roles:
            given = self._given.get(role)
            if given and (given in seen.header or which == 0):
                found[role] = (seen.column(given, file.name, f"data.columns.{role}"),)
            elif fixed:
                names = [n for n in fixed.get(role, ()) if n in seen.header or seen.kind in ("json", "literal")]
                found |= {role: tuple(names)} if names else {}
            else:
                name = seen.usual(role)
                found |= {role: (name,)} if name else {}
        return found

    def _separator(self, columns: Mapping[str, tuple[str, ...]], seen: Look) -> str:
        if self._form == "movielens":
            return "|"
        category = columns.get("category", ("",))[0]
        return " " if category.endswith(":token_seq") else ""

    def _time_format(self) -> str:
        given = self._data.time_format
        return _TIME_FORMAT.get(self._form, "auto") if given == "auto" else given


def _event_filter(text: str, name: str, seen: Look) -> tuple[str, str, str]:
    """A filter of the settings whose column is in the file."""
    column, operator, value = event_filter(text)
    return seen.column(column, name, "data.filters"), operator, value
