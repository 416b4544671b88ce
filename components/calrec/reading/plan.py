"""Which files of a source hold events and which hold items, and what format they are in: detected, and said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from calrec.config.data import DataConfig
from calrec.reading import columns, formats
from calrec.reading.archives import SHEET, unpack
from calrec.reading.detect import Look, look
from calrec.reading.layouts import ATTRIBUTES, Layout
from calrec.reading.readers import Reader
from calrec.storage.files import File

_UNTIMED = (
    "no timestamps: the order of the files is taken for the order of the events; if a column holds times, name it with "
    "--set data.columns.time=NAME"
)


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
    files = unpack(files)
    names = {file.name: formats.plain_name(file.name) for file in files}
    endings = (*formats.ENDINGS, *formats.WORKBOOKS, SHEET)
    known = [f for f in files if names[f.name].endswith(endings) or formats.matches(f.name, (data.events, data.items))]
    looks = {file.name: _look(file, data) for file in known if _is_wanted(file, data)}
    full = [file for file in known if file.name in looks and not looks[file.name].empty]
    form = _format(full, looks, data)
    events, items, warnings = _divide(full, looks, form, data)
    if not events:
        _refuse(source, files, known, full, looks, data)
    reader = Reader(form, data, bool(items))
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
    likely = [file for file in full if not _is_named(file, formats.ITEM_NAMES)]
    empty = [file.name for file in known if file.name in looks and looks[file.name].empty]
    if empty and not likely:
        raise ValueError(f"{source} holds only empty files: {_listed(empty)}")
    shapes = {file.name: _shape(file, looks[file.name], "table", data) | _ids(looks[file.name]) for file in full}
    _refuse_apart(shapes)
    if (likely or full) and not data.events:
        first = (likely or full)[0]
        try:
            Reader("table", data, has_items=True).events(first, looks[first.name])  # says which column is missing
        except ValueError as error:  # of names in a guessed encoding, perhaps
            raise ValueError("; ".join([str(error), *looks[first.name].warnings])) from None
    endings = ", ".join((*formats.ENDINGS, *formats.WORKBOOKS, ".zip"))
    raise FileNotFoundError(
        f"{source} holds no file of events (data.format={data.format}, data.events={data.events or 'all'}); it "
        f"needs files that end in {endings}, also with .gz or .zst; found: "
        f"{_listed(sorted(file.name for file in files)) or 'nothing'}"
    )


def _ids(seen: Look) -> set[str]:
    return {role for role in ("user", "item") if columns.usual(role, seen.header)}


def _refuse_apart(shapes: Mapping[str, set[str]]) -> None:
    """Users in one file and items in another, such as orders and their lines."""
    of_users, of_items = (
        [name for name, found in shapes.items() if role in found and other not in found]
        for role, other in (("user", "item"), ("item", "user"))
    )
    if of_users and of_items and not any({"user", "item"} <= found for found in shapes.values()):
        raise ValueError(
            f"no file has both the user and the item of an event: {_listed(of_users)} has the user, "
            f"{_listed(of_items)} the item; join them first, by the id of the order or what else they share"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _is_wanted(file: File, data: DataConfig) -> bool:
    """Whether a file may be read: with a glob of the events, only what is in it or what describes items."""
    return (
        not data.events or formats.matches(file.name, (data.events, data.items)) or _is_named(file, formats.ITEM_NAMES)
    )


def _is_named(file: File, globs: Sequence[str]) -> bool:
    return formats.matches(formats.plain_name(file.name), globs)


def _look(file: File, data: DataConfig) -> Look:
    name = formats.plain_name(file.name)
    delimiter = data.delimiter.replace("\\t", "\t") or formats.DELIMITERS.get(name, "")
    if header := formats.HEADERS.get(name):  # MovieLens, in UTF-8 or in Latin-1
        seen = look(file, name, header, delimiter, data.encoding, atomic=True)
        guessed = data.encoding == "auto" and seen.warnings
        return look(file, name, header, delimiter, "latin-1", atomic=True) if guessed else seen
    header = () if _is_named(file, formats.ITEM_NAMES) else data.header
    return look(file, name, header, delimiter, data.encoding)


# --- formats ----------------------------------------------------------------------------------------------------


def _format(files: Sequence[File], looks: Mapping[str, Look], data: DataConfig) -> str:
    """The format, as the settings, names and headers say."""
    if data.format != "auto":
        return data.format
    if not data.events and not any(vars(data.columns).values()):
        for form, (globs, _) in formats.NAMED.items():
            if any(_is_named(file, globs) and _fits(form, looks[file.name]) for file in files):
                return form
    meta = [looks[file.name] for file in files if _is_named(file, formats.ITEM_NAMES)]
    for file in files:
        columns = set(looks[file.name].header)
        if {"reviewerID", "asin"} <= columns:
            return "amazon2014" if "helpful" in columns or any(one.kind == "literal" for one in meta) else "amazon2018"
        if {"user_id", "parent_asin"} <= columns:
            return "amazon2023"
    return "table"


def _fits(form: str, seen: Look) -> bool:
    """Whether a file has the columns of the events of its format."""
    needed = formats.COLUMNS.get(form, ({}, {}))[0]
    return all(any(name in seen.header for name in needed[role]) for role in ("user", "item") if role in needed)


# --- events and items -------------------------------------------------------------------------------------------


def _divide(
    files: Sequence[File], looks: Mapping[str, Look], form: str, data: DataConfig
) -> tuple[list[File], list[File], list[str]]:
    """(event files, item files, warnings): by the settings, the names of a format, or the columns."""
    if data.items and not any(formats.matches(file.name, (data.items,)) for file in files):
        raise FileNotFoundError(f"no file fits data.items={data.items}; found: {_listed([f.name for f in files])}")
    shapes = {file.name: _shape(file, looks[file.name], form, data) for file in files}
    events = [file for file in files if "user" in shapes[file.name]]
    items = [file for file in files if shapes[file.name] == {"item"}]
    items = items or [file for file in files if shapes[file.name] == {"unknown item"}]  # its reader says what it lacks
    if form in formats.NAMED or data.events or len({frozenset(shapes[file.name]) for file in events}) < 2:
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
    of_events, of_items = formats.NAMED.get(form, ((), formats.ITEM_NAMES))
    given = {role for role, name in vars(data.columns).items() if name in seen.header}
    fixed = formats.COLUMNS.get(form, ({}, {}))[0]
    if formats.matches(file.name, (data.items,)):
        return {"item"}
    is_event, is_item = formats.matches(file.name, (data.events,)), _is_named(file, of_items)
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
