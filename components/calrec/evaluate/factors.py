"""Baselines that factor or compare the columns of users x items: models of the library `implicit`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import TFIDFRecommender
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from calrec.evaluate.counting import Method
from calrec.evaluate.shelf import Audience, Candidates, Shelf, ages, best, best_of
from calrec.textify.tokens import Ragged

# Chosen on the validation items of scientific2018, beauty2014 and games2018.
DECAY = 0.8
"""An event weighs DECAY ** (events of the user since then); better than equal weights and than the last item alone."""
NEIGHBOURS = 200
FACTORS, CONFIDENCE, REGULARIZATION, ITERATIONS = 128, 40.0, 10.0, 15


def item_knn(shelf: Shelf, k: int) -> Method:
    """Items that the same users bought, by the cosine of TF-IDF columns; score: its sum over the history, decayed."""
    model = TFIDFRecommender(K=NEIGHBOURS, num_threads=1)
    with _one_thread(), np.errstate(invalid="ignore"):  # 0 / 0 where nobody who bought an item tells items apart
        model.fit(_bought(shelf), show_progress=False)
    similar = model.similarity
    similar.data = np.nan_to_num(similar.data)

    def propose(audience: Audience) -> Candidates:
        return best_of(_weighted(audience.histories, len(shelf)) @ similar, audience, k)

    return propose


def matrix_factorisation(shelf: Shelf, k: int, seed: int) -> Method:
    """Alternating least squares on what was bought; score: the product with a factor made from the decayed history.

    Every user's factor is made anew, so that whoever is asked for, and whatever he did since, is treated alike.
    """
    with _one_thread():
        model = AlternatingLeastSquares(
            FACTORS, REGULARIZATION, CONFIDENCE, iterations=ITERATIONS, num_threads=1, random_state=seed
        )
        model.fit(_bought(shelf), show_progress=False)

    def propose(audience: Audience) -> Candidates:
        weighted = _weighted(audience.histories, len(shelf))
        with _one_thread():
            scores = model.recalculate_user(np.arange(len(audience)), weighted) @ model.item_factors.T
        scores[audience.histories.lengths() == 0] = -np.inf
        return best(scores, audience, k)

    return propose


def _bought(shelf: Shelf) -> Any:
    """Users x places, 1 where the user bought the item."""
    histories = shelf.histories
    matrix = _matrix(histories, np.ones(len(histories.flat), np.float32), len(shelf))
    matrix.data[:] = 1
    return matrix


def _weighted(histories: Ragged, places: int) -> Any:
    """Users x places, the decayed number of events."""
    return _matrix(histories, (DECAY ** ages(histories)).astype(np.float32), places)


def _matrix(histories: Ragged, values: Any, places: int) -> Any:
    matrix = csr_matrix((values, histories.flat, histories.offsets), shape=(len(histories), places), copy=True)
    matrix.sum_duplicates()  # in place: without the copy, the histories themselves would be reordered and cut
    return matrix


@contextmanager
def _one_thread() -> Iterator[None]:
    """One BLAS thread, as the library wants it and as the same figures every time need it."""
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Method expects CSR input")  # its own k nearest neighbours are COO
        yield
