"""From the raw attributes of all items to clean ones, with an account of what became of each value."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from calrec.reading import lists
from calrec.reading.cleaning import clean_brand, clean_text, clean_title
from calrec.reading.layouts import ATTRIBUTES
from calrec.reading.prices import clean_price
from calrec.reading.strings import NOT_TEXT, NOT_UTF8

_EXAMPLES = 2
_NO_CATEGORY = ("(no genres listed)", "unknown")
_SHOWN = 60  # characters of an example
_PLURAL = {"title": "titles", "category": "categories", "brand": "brands", "price": "prices"}


@dataclass
class Account:
    """What became of one attribute: read, cleaned, missing and not_readable are all items."""

    read: int = 0
    cleaned: int = 0
    """Items whose value was no attribute but a fragment of a page, and is left empty."""
    missing: int = 0
    """Items without a value, or with a word for nothing such as `nan`."""
    not_readable: int = 0
    """Items whose value is not UTF-8, an object, or a price without a number that is sure; it is left empty."""
    not_utf8: int = 0
    """Those of them that are not UTF-8."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """For cleaned, not_readable and not_utf8 the first two."""

    def add(self, what: str, example: str = "") -> None:
        """Count one item."""
        setattr(self, what, getattr(self, what) + 1)
        shown, example = self.examples.setdefault(what, []), " ".join(example.split())[:_SHOWN]
        if example and len(shown) < _EXAMPLES and example not in shown:
            shown.append(example)

    def counts(self) -> dict[str, int]:
        """For the manifest."""
        return {name: getattr(self, name) for name in ("read", "cleaned", "missing", "not_readable")}

    def quote(self, what: str) -> str:
        """The examples in words."""
        return ", ".join(f"'{one}'" for one in self.examples[what])


@dataclass(frozen=True)
class Clean:
    """Clean attributes."""

    columns: dict[str, list[str]]
    """Attribute → text of each item; what is missing is empty."""
    accounts: dict[str, Account]
    warnings: list[str]
    notes: list[str]


def clean(raw: Mapping[str, Sequence[str]], category: str, comma: bool) -> Clean:
    """Clean the attributes of all items of a source together: some things only a whole column tells.

    Args:
        raw: attribute → text of each item as `texts.loose` gives it.
        category: first or last: which entry of a list of categories is taken.
        comma: prices have a decimal comma, see :mod:`calrec.reading.prices`.
    """
    cleaners, notes = _cleaners(raw["category"], category, comma)
    accounts = {name: Account() for name in ATTRIBUTES}
    columns = {name: [_judged(name, text, cleaners[name], accounts[name]) for text in raw[name]] for name in ATTRIBUTES}
    for at, (title, its) in enumerate(zip(columns["title"], columns["category"], strict=True)):
        if title and not clean_title(raw["title"][at], its):
            columns["title"][at] = ""
            accounts["title"].read -= 1
            accounts["title"].add("cleaned", raw["title"][at])
    warnings = [sentence for name in ATTRIBUTES for sentence in _said(name, accounts[name], len(raw[name]))]
    warnings += _one_category(raw["category"], columns["category"], category)
    return Clean(columns, accounts, warnings, notes)


@functools.cache
def _single() -> dict[str, Callable[[str], str]]:
    return _cleaners((), "last", comma=False)[0]


def clean_item(item: Mapping[str, str]) -> dict[str, str]:
    """Clean attributes of one item, where no column tells more."""
    found = {name: _judged(name, item[name], _single()[name], Account()) for name in ATTRIBUTES}
    return found if clean_title(item["title"], found["category"]) else {**found, "title": ""}


def _cleaners(
    categories: Sequence[str], category: str, comma: bool
) -> tuple[dict[str, Callable[[str], str]], list[str]]:
    """Attribute → from raw text to clean text; and what was decided."""
    mark, notes = lists.separator(categories), []
    if mark:
        example = next(text for text in categories if mark in text)
        notes.append(f"a category such as {example[:_SHOWN]!r} is a list, its entries parted by {mark!r}")
    if comma:
        notes.append("prices have a decimal comma: 1.234,50 is 1234.50")
    return {
        "title": lambda text: clean_title(text, ""),
        "category": functools.lru_cache(1 << 16)(lambda text: clean_category(text, category, mark)),
        "brand": functools.lru_cache(1 << 16)(lambda text: clean_brand((lists.entries(text) or [""])[0])),
        "price": lambda text: clean_price(text, comma),
    }, notes


def clean_category(raw: str, which: str, mark: str = "") -> str:
    """The single category of an item: the first or last entry of a list, written with `mark` or as one."""
    entries = lists.entries(raw, mark)
    text = clean_text(entries[-1] if which == "last" else entries[0]) if entries else ""
    return "" if lists.nothing(text) or text in _NO_CATEGORY else text


def _judged(name: str, raw: str, cleaner: Callable[[str], str], account: Account) -> str:
    """The clean text of a value; what became of it is counted."""
    if raw.startswith((NOT_UTF8, NOT_TEXT)):
        account.add("not_readable", raw[1:])
        if raw.startswith(NOT_UTF8):
            account.add("not_utf8", raw[1:])
        return ""
    if lists.nothing(raw, title=name == "title"):
        account.add("missing")
        return ""
    text = cleaner(raw)
    if text:
        account.read += 1
    elif name == "price" and clean_text(raw):
        account.add("not_readable", raw.strip())
    else:
        account.add("cleaned" if name == "title" or not clean_text(raw) else "missing", raw.strip())
    return text


def _said(name: str, account: Account, items: int) -> list[str]:
    """What is wrong with an attribute, in sentences."""
    found = []
    if account.not_utf8:
        found.append(
            f"{account.not_utf8:,} of {items:,} items have a {name} that is not UTF-8, such as "
            f"{account.quote('not_utf8')}; it is left empty: name the encoding of the files, such as "
            "--set data.encoding=cp1252"
        )
    if other := account.not_readable - account.not_utf8:
        found.append(
            f"{other:,} of {items:,} items have a {name} that cannot be read, such as "
            f"{account.quote('not_readable')}; it is left empty: if another column holds it, name that with "
            f"--set data.columns.{name}=NAME"
        )
    if account.cleaned:
        found.append(
            f"{account.cleaned:,} {_PLURAL[name]} were page fragments, such as {account.quote('cleaned')}; they are "
            "left empty"
        )
    return found


def _one_category(raw: Sequence[str], columns: Sequence[str], which: str) -> list[str]:
    """Whether all items have one category, and the other end of their lists tells them apart."""
    names = set(columns) - {""}
    if len(names) != 1 or which == "last":
        return []
    mark = lists.separator(raw)
    others = {clean_category(text, "last", mark) for text in set(raw) if not text.startswith((NOT_UTF8, NOT_TEXT))}
    if len(others - {""}) <= 1:
        return []
    count = sum(map(bool, columns))
    return [
        f"all {count:,} items have the category {next(iter(names))}; try --set data.category=last: "
        f"{len(others - {''}):,} categories"
    ]


def refuse_not_utf8(source: str, accounts: Mapping[str, Account], limit: float) -> None:
    """Stop when more than the allowed share of the items has an attribute that is not UTF-8.

    Raises:
        ValueError: names the attribute, two examples and the setting.
    """
    for name, account in accounts.items():
        items = sum(account.counts().values())
        if account.not_utf8 > limit * items:
            raise ValueError(
                f"{source}: {account.not_utf8:,} of {items:,} items have a {name} that is not UTF-8 "
                f"({account.not_utf8 / items:.1%}, data.max_reject_share is {limit:.1%}), such as "
                f"{account.quote('not_utf8')}; name the encoding of the files, such as --set data.encoding=cp1252"
            )
