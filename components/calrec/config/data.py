"""Sections about data: where a log lies, how it is read, cleaned and split."""

import re
from dataclasses import dataclass, field

from calrec.config import checks
from calrec.config.checks import check, instant, is_encoding, one_of

FORMATS = (
    "auto", "sample", "amazon2014", "amazon2018", "amazon2023", "movielens", "recbole", "sequences", "table",
)  # fmt: skip
_FILTER = re.compile(r"\s*([^=!<>~]+?)\s*(>=|<=|!=|!~|=|>|<|~)\s*(.*?)\s*$", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One category of the catalogue and where its raw log lies."""

    domain: str
    """Name of the category; the key of every later table, metric and model."""
    uri: str
    """`sample:DEPARTMENT`, or folders, files and globs, local, gs://, s3:// or https://, separated by commas."""
    snapshot: str = ""
    """Version of the data behind the URI (date or hash). Part of the cache key: a new value reads the log again."""

    def __post_init__(self) -> None:
        checks.name("the category of a source,", self.domain)
        check(bool(self.uri), f"source {self.domain!r} has no uri; give a folder, a URI or sample:DEPARTMENT")


@dataclass(frozen=True)
class Columns:
    """Names of the log's columns (`--set data.columns.user=CustomerID`).

    An empty one is found by its usual names and by what stands in the columns; `none`: the log has no such column.
    """

    user: str = ""
    item: str = ""
    time: str = ""
    """Without any time column the order of the file counts. A day and an hour in two columns: DAY+HOUR."""
    weight: str = ""
    """Rating or quantity; 1 without such a column, 0 where it is empty."""
    title: str = ""
    category: str = ""
    brand: str = ""
    price: str = ""


@dataclass(frozen=True)
class DataConfig:
    """Reading and cleaning of the raw log (PAPER.md, "Data")."""

    format: str = "auto"
    """auto looks at the files and says what it found; else one of FORMATS."""
    events: str = ""
    """Glob of the event files inside the source, such as logs/2026-*.csv; empty: all that are not item files."""
    items: str = ""
    """Glob of the item files; empty: meta_*, items.*, products.*, movies.* and the like."""
    columns: Columns = field(default_factory=Columns)
    """Column map of the table format."""
    filters: tuple[str, ...] = ()
    """Events that count, such as quantity>0 or event_type=purchase|cart; operators = != > >= < <=, and ~ !~ for a
    regular expression that is found anywhere in the value, such as code~^[0-9]. A value with a comma needs a JSON
    list, in which each backslash is doubled: ["code~^[0-9]{3,5}$"]."""
    time_format: str = "auto"
    """auto (ISO 8601; a number's size tells its unit), s, ms, us, ns, or a pattern such as %m/%d/%Y %H:%M (UTC)."""
    delimiter: str = ""
    """Of CSV files; empty: found in the first line. Write \\t for a tab."""
    encoding: str = "auto"
    """Of text files: auto (recognised; a guess is said), or any text encoding of Python, such as cp1252."""
    header: tuple[str, ...] = ()
    """Names of the columns of CSV files of events that have no header line."""
    since: str = ""
    """Events before this ISO date or time (UTC) are dropped."""
    until: str = ""
    """Events at or after this ISO date or time (UTC) are dropped."""
    dedup: str = "consecutive"
    """consecutive: adjacent repeats of an item collapse; first: only the first purchase counts; none."""
    tie_break: str = "hash"
    """Order of events at one time: hash of the item id (file order leaks), or file."""
    min_user: int = 5
    """k-core: fewest events of a user."""
    min_item: int = 5
    """k-core: fewest events of an item."""
    min_length: int = 3
    """Fewest events of a user after the k-core; a history, a validation and a test item need 3."""
    weight: str = "auto"
    """What the weight is. quantity: added up where lines agree in user, item and time; rating: the first of them stays;
    auto: a rating when the column's name says so (rating, overall, score, stars), else a quantity."""
    returns: str = "drop"
    """Events of negative weight. drop; cancel: they also take their quantity back from the newest earlier purchases of
    the user and item; keep: they are events as any other."""
    min_weight: float = 0.0
    """Events with a smaller rating or (added up) quantity are dropped; 0: only data.returns looks at the weight."""
    category: str = "first"
    """Which entry of a list of categories is the item's single category: first (the main one) or last (the finest)."""
    missing_metadata: str = "keep"
    """Events of items without metadata: keep (attributes are Unknown) or drop."""
    max_reject_share: float = 0.01
    """The step stops when more than this share of the rows of events, or of items, cannot be read."""
    memory_gb: float = 0.0
    """Memory that the events may take before they are cleaned in parts on disk; 0: 30 % of the machine's."""

    def __post_init__(self) -> None:
        one_of("data.format", self.format, FORMATS)
        check(
            self.encoding == "auto" or is_encoding(self.encoding),
            f"data.encoding must be auto or a text encoding of Python such as cp1252 or utf-16, got {self.encoding!r}",
        )
        check(len(set(self.header)) == len(self.header), f"data.header repeats a name: {', '.join(self.header)}")
        one_of("data.dedup", self.dedup, ("consecutive", "first", "none"))
        one_of("data.tie_break", self.tie_break, ("hash", "file"))
        one_of("data.weight", self.weight, ("auto", "quantity", "rating"))
        one_of("data.returns", self.returns, ("drop", "cancel", "keep"))
        one_of("data.category", self.category, ("first", "last"))
        one_of("data.missing_metadata", self.missing_metadata, ("keep", "drop"))
        for name in ("min_user", "min_item", "min_weight", "memory_gb"):
            check(getattr(self, name) >= 0, f"data.{name} must be >= 0, got {getattr(self, name)}")
        check(self.min_length >= 1, f"data.min_length must be >= 1, got {self.min_length}")
        check(0 <= self.max_reject_share <= 1, f"data.max_reject_share is a share, 0 to 1; got {self.max_reject_share}")
        check(
            self.time_format in ("auto", "s", "ms", "us", "ns") or "%" in self.time_format,
            f"data.time_format must be auto, s, ms, us, ns or a pattern, %m/%d/%Y %H:%M; got {self.time_format!r}",
        )
        for text in self.filters:
            event_filter(text)
        since, until = instant("data.since", self.since), instant("data.until", self.until)
        if since is not None and until is not None:
            check(since < until, f"data.since must be before data.until, got {self.since} and {self.until}")


def event_filter(text: str) -> tuple[str, str, str]:
    """(column, operator, value) of an entry of `data.filters`; > >= < <= compare numbers, ~ !~ search a pattern."""
    check(
        not text.startswith("["),
        f"data.filters: no JSON list, {text!r}; put each filter in double quotes and double each backslash",
    )
    match = _FILTER.match(text)
    check(
        match is not None,
        f"data.filters takes COLUMN OPERATOR VALUE such as quantity>0, got {text!r}; "
        'a value with a comma needs a JSON list: ["name~^a,b"]',
    )
    assert match
    column, operator, value = match.groups()
    if operator[0] in "<>":
        try:
            float(value)
        except ValueError:
            raise ValueError(f"data.filters: {operator} needs a number, got {text!r}") from None
    check(
        not value.startswith(("=", "~")),
        f"data.filters: one operator of = != > >= < <= ~ !~, got {text!r}; write {column}{value} for it",
    )
    if operator.endswith("~"):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f"data.filters: {value!r} of {text!r} is no regular expression ({error}); a pattern with a comma needs "
                'a JSON list: ["code~^.{3,5}$"]'
            ) from None
    return column, operator, value


@dataclass(frozen=True)
class SplitConfig:
    """Which events of a user are training, validation and test (PAPER.md, "Data")."""

    kind: str = "leave_last_out"
    """leave_last_out: the last item is the test target, the one before the validation target; time: two global cuts,
    a user's first event in a window is the window's target."""
    unit: str = "event"
    """What is held out, event or basket: a user's events of one time. Of a basket one item, whatever the history holds,
    is the target, and the history ends before the basket."""
    valid_from: str = ""
    """time: start of the validation window, an ISO date or time (UTC); empty: set by the shares."""
    test_from: str = ""
    """time: start of the test window; empty: set by the shares."""
    valid_share: float = 0.1
    """time: share of the events that lie in the validation window."""
    test_share: float = 0.1
    """time: share of the events that lie in the test window."""

    def __post_init__(self) -> None:
        one_of("split.kind", self.kind, ("leave_last_out", "time"))
        one_of("split.unit", self.unit, ("event", "basket"))
        for name in ("valid_share", "test_share"):
            share = getattr(self, name)
            check(0 < share < 1, f"split.{name} is a share of the events, between 0 and 1; got {share}")
        check(
            self.valid_share + self.test_share < 1,
            f"split.valid_share + split.test_share must be < 1, got {self.valid_share} + {self.test_share}",
        )
        check(
            bool(self.valid_from) == bool(self.test_from),
            f"split.valid_from and split.test_from go together; got {self.valid_from!r} and {self.test_from!r}",
        )
        valid, test = instant("split.valid_from", self.valid_from), instant("split.test_from", self.test_from)
        if valid is not None and test is not None:
            check(
                valid < test,
                f"split.valid_from must be before split.test_from, got {self.valid_from}, {self.test_from}",
            )
