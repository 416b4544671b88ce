"""A manifest in words: its tables as text and as a page, and what a person should be warned of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.report import document, tables
from calrec.report.document import Histogram, Section, Text, format_cell, plain_table
from calrec.system import printing

# kind → count → (when it is worth a warning, what it says)
_Warning = tuple[str, Callable[[float], bool], str]
_WARNINGS: Mapping[str, Sequence[_Warning]] = {
    "interactions": (
        ("rejects", lambda n: n > 0, "{:,.0f} rows could not be read; they are in rejects.parquet with their reasons"),
        ("users", lambda n: n < 1000, "only {:,.0f} users: metrics will have wide intervals"),
        ("tied_share", lambda s: s > 0.3, "{:.0%} of neighbouring events have one time: the last item is any item of a "
         "basket, in the order of data.tie_break; --set split.unit=basket holds out whole baskets"),
        ("target_is_previous_share", lambda s: s > 0.2, "{:.0%} of the last items repeat the one before"),
        ("target_in_history_share", lambda s: s > 0.3, "{:.0%} of the last items were bought before"),
    ),
    "tokens": (("assembled_exact_share", lambda s: s < 1, "only {:.1%} of probed prompts are assembled exactly"),),
    "generations": (
        ("unfinished_share", lambda s: s > 0.05, "{:.1%} of the samples were cut; raise generate.max_new_tokens"),
        ("distinct_share", lambda s: s < 0.05, "only {:.1%} of the samples are distinct; raise generate.temperature"),
    ),
    "recommendations": (
        ("filled_share", lambda s: s > 0.1, "{:.0%} of the places are filled with popular items: too few matches"),
        ("texts_without_known_word", lambda n: n > 0, "{:,.0f} generated texts have no word of the catalogue"),
        (
            # A model writes what it has read, so hardly a word is unknown to its own catalogue; drift warns at as much.
            "unknown_words_share",
            lambda s: s > 0.1,
            "{:.0%} of the words that were searched are in no text of the catalogue: is it the model's own?",
        ),
    ),
    "evaluation": (
        ("catalogue_coverage", lambda s: s < 0.05, "only {:.1%} of the items are ever recommended"),
        ("targets_in_the_history", lambda s: s > 0.3, "{:.0%} of the targets are in the history"),
    ),
    "decision": (("promote", lambda n: n < 1, "the model does not pass the gate"),),
}  # fmt: skip
# count → what it is a part of, the share that is worth a warning, what it says
_PARTS: Mapping[str, tuple[str, float, str]] = {
    "items_without_metadata": ("items", 0.2, "items have no metadata: their text is Unknown"),
    "items_without_title": ("items", 0.2, "items have no title; name its column with --set data.columns.title=NAME"),
    "items_with_shared_text": ("items", 0.2, "items share their text with another: retrieval cannot tell them apart"),
    "items_cut": ("items", 0.2, "items have a longer text than text.max_item_tokens; it was cut"),
    "users_of_too_few_baskets": ("users", 0.5, "users have fewer than three baskets and are training only"),
    "users_with_mostly_empty_texts": (
        "users", 0.01,
        "users have mostly empty texts: the model ends before it begins. Train it longer (--set stage2.steps=N), or "
        "let it write items of the catalogue alone (--set generate.trie=sample)",
    ),
    # The same share as of filled places: of a tenth of the lists nothing was asked for.
    "users_with_fill_alone": ("users", 0.1, "users match no item: their lists are the most frequent items alone"),
    "prompts_cut": ("prompts", 0.5, "prompts lose their oldest items; raise text.max_tokens"),
}  # fmt: skip
_SETTINGS = ("threads", "ranks")  # counts that say how a step was run and not what came out
_RULE = ("rule", "rows before", "dropped", "rows after")
_FAR = "2038-"  # a date beyond it stands for none in many systems
_ROWS = 12  # of a learning curve in a description


def warnings(manifest: Manifest) -> list[str]:
    """What a person should know before using a folder, in sentences."""
    counts = manifest.counts
    found = list(manifest.warnings)
    found += [
        text.format(counts[name])
        for name, worth, text in _WARNINGS.get(manifest.kind, ())
        if name in counts and worth(counts[name])
    ]
    for name, (whole, share, said) in _PARTS.items():
        if counts.get(whole) and counts.get(name, 0) > share * counts[whole]:
            found.append(f"{counts[name] / counts[whole]:.0%} of the {said}")
    for rule in manifest.rules:
        before, after = rule["rows_before"], rule["rows_after"]
        if before and after < before / 2:
            found.append(f"the rule {rule['rule']!r} drops {1 - after / before:.0%} of the events")
    if manifest.config.get("time") == "ms":
        first, last = str(counts.get("first_event", "")), str(counts.get("last_event", ""))
        if first.startswith("1970-"):
            found.append(
                "the first event is in 1970: is the unit of the timestamps right (data.time_format)? If only some are, "
                "--set data.since=DATE leaves them out"
            )
        if last > _FAR:
            found.append(
                f"the last event is of {last[:10]}: --set data.until=DATE leaves out what cannot have happened"
            )
    if manifest.kind == "model" and "best_valid_nig" in counts:
        if counts["best_step"] == counts["steps"]:
            found.append("the last step was the best one: more steps may help")
        if counts["best_step"] == 0:
            found.append("validation never improved: this is the model that the stage began with")
    return found


def text(manifest: Manifest, notes: bool = True) -> str:
    """Notes, warnings, counts and rules as aligned lines."""
    lines = [f"  warning: {printing.safe(warning)}" for warning in warnings(manifest)]
    lines += [f"  {printing.safe(note)}" for note in manifest.notes if notes]
    lines += rows("counts", single(manifest))
    lines += rows(
        "rejects by reason", [(reason, format_cell(n)) for reason, n in manifest.counts.get("rejects_by_reason", ())]
    )
    lines += rows(
        "rules (rows before → after)",
        [(rule["rule"], f"{rule['rows_before']:,} → {rule['rows_after']:,}") for rule in manifest.rules],
    )
    return "\n".join(lines)


def single(manifest: Manifest) -> list[tuple[str, str]]:
    """The counts that are one value, by name; those by category follow with the category's name."""
    found, nested = [], []
    for name, value in manifest.counts.items():
        if isinstance(value, Mapping):
            nested += [
                (f"{key}.{inner}", format_cell(count)) for key, of in value.items() for inner, count in of.items()
            ]
        elif not isinstance(value, list | tuple):
            found.append((name, format_cell(round(value, 4) if isinstance(value, float) else value)))
    return [*found, *nested]


def rows(title: str, pairs: Sequence[tuple[str, Any]]) -> list[str]:
    """A titled list of names and values, aligned; nothing when it is empty."""
    table = tables.text([(name, str(value)) for name, value in pairs]) if pairs else ""
    return [f"{title}:", *(f"  {line}" for line in table.splitlines())] if pairs else []


def numbers(manifest: Manifest) -> dict[str, float]:
    """The counts that a person compares runs by."""
    counts = manifest.counts.items()
    return {name: float(n) for name, n in counts if isinstance(n, int | float) and name not in _SETTINGS}


def settings(manifest: Manifest) -> dict[str, Any]:
    """The other counts: how the step was run."""
    return {name: n for name, n in manifest.counts.items() if name in _SETTINGS}


def histograms(manifest: Manifest) -> dict[str, list[tuple[str, int]]]:
    """The counts that are lists of (label, count), by name."""
    return {
        name.removesuffix("_histogram").replace("_", " "): [(str(label), int(count)) for label, count in value]
        for name, value in manifest.counts.items()
        if isinstance(value, list | tuple)
    }


def write_report(folder: Path, title: str, manifest: Manifest, examples: Sequence[Section] = ()) -> None:
    """Write a manifest as report.md and report.html: warnings, notes, examples, rules, tables, histograms, counts."""
    document.write(folder, title, _sections(manifest, examples))


def markdown(manifest: Manifest, folder: Path) -> str:
    """A finished folder for a person to read: its report, else its manifest and its learning curve in Markdown."""
    reports = [path for name in ("report.md", "decision.md") if (path := Path(folder) / name).is_file()]
    if reports:
        return reports[0].read_text()
    return document.markdown("", [*_sections(manifest), *_curve(Path(folder))])


def _sections(manifest: Manifest, examples: Sequence[Section] = ()) -> list[Section]:
    """Warnings, notes, examples, rules, tables, histograms and counts; those that are not empty."""
    found = [
        Section("", [Text(warning, "warning") for warning in warnings(manifest)]),
        Section("What was read", [Text(note, "note") for note in manifest.notes]),
        *examples,
        *(Section(heading, [plain_table(header, rows)]) for heading, header, rows in _tables(manifest)),
        Section("In numbers", [Histogram(name, bars) for name, bars in histograms(manifest).items()]),
        Section("Counts", [plain_table(("count", ""), counts)] if (counts := _counts(manifest)) else []),
    ]
    return [section for section in found if section.blocks]


def _curve(folder: Path) -> list[Section]:
    """The validations of a stage as a table, at most so many of them; none when there was none."""
    rows = [row for row in artifacts.read_record(folder).get("curves", []) if any("valid" in name for name in row)]
    if not rows:
        return []
    names = list(rows[0])
    kept = rows if len(rows) <= _ROWS else [rows[round(i * (len(rows) - 1) / (_ROWS - 1))] for i in range(_ROWS)]
    cells = [[f"{row['step']:.0f}", *(f"{row[name]:.4f}" if name in row else "" for name in names[1:])] for row in kept]
    return [Section("Validations", [plain_table(names, cells)])]


def _tables(manifest: Manifest) -> list[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """(heading, header, rows) of the rules, and of the counts that have a row for each of several things."""
    rules = [
        (str(rule["rule"]), *(f"{n:,}" for n in (before, before - after, after)))
        for rule in manifest.rules
        for before, after in [(rule["rows_before"], rule["rows_after"])]
    ]
    found: list[tuple[str, Sequence[str], list[tuple[str, ...]]]] = [("Rules", _RULE, rules)] if rules else []
    for name, things in manifest.counts.items():
        if isinstance(things, Mapping) and things:
            names = list(next(iter(things.values())))
            header = ("", *(inner.replace("_", " ") for inner in names))
            cells = [(thing, *(format_cell(of.get(inner, 0)) for inner in names)) for thing, of in things.items()]
            found.append((name.replace("_", " ").capitalize(), header, cells))
    return found


def _counts(manifest: Manifest) -> list[tuple[str, str]]:
    plain = {name: value for name, value in manifest.counts.items() if not isinstance(value, Mapping)}
    return [(name.replace("_", " "), value) for name, value in single(replace(manifest, counts=plain))]
