"""Baselines that factor or compare the columns of users x items: models of the library `implicit`."""

import numpy as np
from implicit.als import AlternatingLeastSquares

from calrec.evaluate.baselines.candidates import Audience, Candidates, Shelf, best, best_of
from calrec.evaluate.baselines.counting import Method
from calrec.retrieve.neighbours import bought, decayed_counts, one_thread, similarities

# Chosen on the validation items of scientific2018, beauty2014 and games2018.
FACTORS, CONFIDENCE, REGULARIZATION, ITERATIONS = 128, 40.0, 10.0, 15


def item_knn(shelf: Shelf, k: int) -> Method:
    """Items that the same users bought, by the cosine of TF-IDF columns; score: its sum over the history, decayed."""
    similar = similarities(shelf.histories, len(shelf))

    def propose(audience: Audience) -> Candidates:
        return best_of(decayed_counts(audience.histories, len(shelf)) @ similar, audience, k)

    return propose


def matrix_factorisation(shelf: Shelf, k: int, seed: int) -> Method:
    """Alternating least squares on what was bought; score: the product with a factor made from the decayed history.

    Every user's factor is made anew, so that all users are treated alike, whatever they did since the training.
    """
    with one_thread():
        model = AlternatingLeastSquares(
            FACTORS, REGULARIZATION, CONFIDENCE, iterations=ITERATIONS, num_threads=1, random_state=seed
        )
        model.fit(bought(shelf.histories, len(shelf)), show_progress=False)

    def propose(audience: Audience) -> Candidates:
        weighted = decayed_counts(audience.histories, len(shelf))
        with one_thread():
            scores = model.recalculate_user(np.arange(len(audience)), weighted) @ model.item_factors.T
        scores[audience.histories.lengths() == 0] = -np.inf
        return best(scores, audience, k)

    return propose
