"""What is known of each judged user beside the ranks: it explains the metrics and divides the users."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from calrec import artifacts
from calrec.evaluate import slices
from calrec.evaluate.generated import Generated
from calrec.evaluate.slices import Division
from calrec.evaluate.users import Judged
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_ROWS = 1 << 17  # of a table that is written at a time


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts by user, and of the catalogue's items what they need."""

    judged: Judged
    generated: Generated
    catalogue: Catalogue
    prices: Floats
    """Of the catalogue's items; nan: none."""
    match: Floats
    """How well the best text fits the first item of each list; nan: no text found it."""

    @property
    def target(self) -> Ints:
        """Position of each user's target in the catalogue."""
        return np.searchsorted(self.catalogue.items, self.judged.target.item)

    def divisions(self) -> list[Division]:
        """The ways to divide the users that these data allow."""
        target = self.target
        return [
            slices.frequency(self.catalogue.train_count[target]),
            slices.history(self.judged.histories.lengths()),
            slices.repeat(self.judged.repeated),
            *slices.category(target, self.catalogue.category),
            *slices.price(target, self.prices),
        ]

    def explanations(self) -> dict[str, float]:
        """What explains the metrics, averaged over users."""
        made = self.generated
        means = {
            "distinct_texts_per_sample": made.distinct / made.samples,
            "generations_that_are_an_item_text": made.exact / made.samples,
            "targets_in_the_history": self.judged.repeated,
        }
        return {name: round(float(values.mean()), 4) for name, values in means.items()}

    def tables(self) -> Iterator[pa.Table]:
        """Rows of artifacts.USERS, part by part."""
        target, made = self.target, self.generated
        lengths, repeated = self.judged.histories.lengths(), self.judged.repeated
        item_id, category = pa.array(self.catalogue.item_id), pa.array(self.catalogue.category)
        for start in range(0, len(target), _ROWS):
            some = slice(start, start + _ROWS)
            at = pa.array(target[some])
            columns = {
                "user_id": self.judged.user_id.slice(start, _ROWS),
                "target": item_id.take(at),
                "target_category": category.take(at),
                "target_price": pa.array(self.prices[target[some]], from_pandas=True),
                "target_train_count": self.catalogue.train_count[target[some]],
                "target_in_history": repeated[some],
                "history_length": lengths[some],
                "samples": made.samples[some],
                "distinct_share": made.distinct[some] / made.samples[some],
                "exact_match_share": made.exact[some] / made.samples[some],
                "match": pa.array(self.match[some], from_pandas=True),
            }
            yield pa.table(columns).cast(artifacts.USERS)


def prices(catalogue: Catalogue) -> Floats:
    """Price of each item, the lower end of a range; nan where there is none."""
    return np.array([_number(price) for price in catalogue.price])


def _number(price: str) -> float:
    """The number that a price begins with: a log may have anything in this column."""
    try:
        return float(price.split(" - ")[0])
    except ValueError:
        return float("nan")
