"""From the columns of a file to events: filters, ids, timestamps and weights.

`Events.row` is the reference for one record and says what is wrong with it; `Events.table` is the fast path for a whole
table, which gives the same events or None when any row needs a closer look.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from calrec.reading import strings, values
from calrec.reading.layouts import Layout

_COMPARE: Mapping[str, tuple[Callable[[Any, Any], bool], Any]] = {
    ">": (operator.gt, pc.greater),
    ">=": (operator.ge, pc.greater_equal),
    "<": (operator.lt, pc.less),
    "<=": (operator.le, pc.less_equal),
}


class DroppedError(Exception):
    """A filter does not let the event pass; `args[0]` is the filter's number."""


class Events:
    """Reads events of one layout."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._user, self._item = layout.columns["user"][0], layout.columns["item"][0]
        self._time = layout.columns.get("time", ())
        self._weight = layout.columns["weight"][0] if "weight" in layout.columns else None

    def row(self, record: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The events of one record: one, or a whole sequence; the timestamp is the position when there is no time.

        Raises:
            DroppedError: a filter says so.
            ValueError: a value that cannot be read; says which.
        """
        for number, (column, op, operand) in enumerate(self._layout.filters):
            if not _named(column, _passes, record.get(column), op, operand):
                raise DroppedError(number)
        user = _named(self._user, values.id_of, record.get(self._user))
        if self._layout.sequences:
            items = record.get(self._item)
            if not isinstance(items, list):
                raise ValueError(f"{self._item} is not a list of item ids")
            return [(user, _named(self._item, values.id_of, item), at, 1.0) for at, item in enumerate(items)]
        item = _named(self._item, values.id_of, record.get(self._item))
        time = 0
        if self._time:
            cells = [record.get(name) for name in self._time]
            time = _named(self._time[0], values.millis_of, values.join_cells(cells), self._layout.time_format)
        weight = 1.0
        if self._weight:
            value = record.get(self._weight)
            weight = 0.0 if value is None or value == "" else _named(self._weight, values.number_of, value)
        return [(user, item, time, weight, *self._attributes(record))]

    def _attributes(self, record: Mapping[str, Any]) -> list[str]:
        columns = self._layout.columns
        return [strings.loose(record.get(columns[name][0]), name == "category") for name in self._layout.attributes]

    def table(self, table: pa.Table) -> tuple[pa.Table, list[int]] | None:
        """Events of a whole table, and how many each filter dropped; None when a row needs a closer look."""
        if self._layout.sequences:
            return None
        dropped = []
        for column, op, operand in self._layout.filters:
            mask = _mask(_column(table, column), op, operand)
            if mask is None:
                return None
            before, table = len(table), table.filter(mask)
            dropped.append(before - len(table))
        n = len(table)
        columns = [
            values.ids(_column(table, self._user)),
            values.ids(_column(table, self._item)),
            values.millis(values.join_columns([_column(table, name) for name in self._time]), self._layout.time_format)
            if self._time
            else pa.nulls(n, pa.int64()).fill_null(0),
            self._weights(table),
            *(values.texts(_column(table, self._layout.columns[name][0])) for name in self._layout.attributes),
        ]
        if any(column is None for column in columns):
            return None
        schema = self._layout.schema
        return pa.table(
            [pc.cast(c, t, safe=False) for c, t in zip(columns, schema.types, strict=True)], schema=schema
        ), dropped

    def _weights(self, table: pa.Table) -> pa.Array | None:
        if not self._weight:
            return pa.nulls(len(table), pa.float64()).fill_null(1.0)
        column = _column(table, self._weight)
        if pa.types.is_null(column.type):
            return pa.nulls(len(table), pa.float64()).fill_null(0.0)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            column = pc.fill_null(column, 0)
        return values.numbers(column)


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.schema.names:
        return pa.nulls(len(table))
    column = table[name].combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _named(column: str, parse: Callable[..., Any], *arguments: Any) -> Any:
    """`parse`, with the column's name in front of its reason."""
    try:
        return parse(*arguments)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from None


def _passes(value: Any, op: str, operand: str) -> bool:
    if op in _COMPARE:
        return _COMPARE[op][0](values.number_of(value), float(operand))
    return _fits("" if value != value else values.text_of(value), op, operand)  # NaN is nothing


def _fits(text: str, op: str, operand: str) -> bool:
    """Whether a text passes; ~ is Python's search, as another engine would find other matches."""
    found = re.search(operand, text) is not None if op.endswith("~") else text in operand.split("|")
    return found != op.startswith("!")


def _mask(column: pa.Array, op: str, operand: str) -> pa.Array | None:
    if op in _COMPARE:
        number = values.numbers(column)
        return None if number is None else _COMPARE[op][1](number, float(operand))
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    text = values.texts(column)
    if text is None:
        return None
    distinct = text.dictionary_encode()
    passes = pa.array([_fits(one, op, operand) for one in distinct.dictionary.to_pylist()], pa.bool_())
    return passes.take(distinct.indices)
