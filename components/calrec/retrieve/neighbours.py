"""Which items the same users bought: cosines of TF-IDF columns of users x items, with the library `implicit`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ragged

# Chosen on the validation items of scientific2018, beauty2014 and games2018.
DECAY = 0.8
"""An event weighs DECAY ** (events of the user since then); better than equal weights and than the last item alone."""
NEIGHBOURS = 200


def similarities(histories: Ragged, size: int) -> Any:
    """Each item's cosine with its NEIGHBOURS nearest ones and itself: a sparse matrix [size, size].

    Args:
        histories: items by number, 0 to size − 1, oldest first.
        size: how many items there are.
    """
    from implicit.nearest_neighbours import TFIDFRecommender

    model = TFIDFRecommender(K=NEIGHBOURS, num_threads=1)
    with one_thread(), np.errstate(invalid="ignore"):  # 0 / 0 where nobody who bought an item tells items apart
        model.fit(bought(histories, size), show_progress=False)
    similar = model.similarity
    similar.data = np.nan_to_num(similar.data)
    return similar


def bought(histories: Ragged, size: int) -> Any:
    """Users x items, 1 where the user bought the item."""
    matrix = _matrix(histories, np.ones(len(histories.flat), np.float32), size)
    matrix.data[:] = 1
    return matrix


def decayed_counts(histories: Ragged, size: int) -> Any:
    """Users x items, the number of events, each weighed by its age."""
    return _matrix(histories, (DECAY ** ages(histories)).astype(np.float32), size)


def ages(histories: Ragged) -> NDArray[np.int64]:
    """How many entries of its row follow each entry of `flat`."""
    return np.repeat(histories.offsets[1:], histories.lengths()) - 1 - np.arange(len(histories.flat))


def _matrix(histories: Ragged, values: Any, size: int) -> Any:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((values, histories.flat, histories.offsets), shape=(len(histories), size), copy=True)
    matrix.sum_duplicates()  # in place: without the copy, the histories themselves would be reordered and cut
    return matrix


@contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS thread, as the library wants it and as the same figures every time need it."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Method expects CSR input")  # its own k nearest neighbours are COO
        yield
