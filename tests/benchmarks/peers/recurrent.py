"""GRU4Rec of cornac."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cornac.data import SequentialDataset
from cornac.models import GRU4Rec

from tests.benchmarks.peers.split import Ints, Judge, Scorer


def train(settings: dict[str, Any], histories: Sequence[Ints], judge: Judge, choose: bool) -> tuple[
    Scorer, dict[str, float]
]:  # fmt: skip
    """A model trained on histories; its fit cannot be looked into, so epochs are chosen among 5, 10, 20 … of new fits.

    Returns:
        the scorer, and seconds and epochs of the training.
    """
    rows = judge.split.judged("valid", most=5000)
    longest = settings["epochs"]
    tried = sorted({longest, *(epochs for epochs in (5, 10, 20, 40, 80) if epochs < longest)}) if choose else [longest]
    best, facts, chosen = -1.0, {}, None
    for epochs in tried:
        start = time.perf_counter()
        scorer = fitted({**settings, "epochs": epochs}, histories, len(judge.split.item_id))
        seconds = time.perf_counter() - start
        figures = judge.figures(scorer, "valid", rows) if choose else {"ndcg_at_10": 0.0}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{epochs} epochs: {seconds:.1f} s, validation {shown}", flush=True)
        if figures["ndcg_at_10"] <= best:
            break
        best, chosen = figures["ndcg_at_10"], scorer
        facts = {"seconds": seconds, "best_epoch": epochs, "seconds_per_epoch": seconds / epochs}
    assert chosen is not None
    return chosen, facts


def fitted(settings: dict[str, Any], histories: Sequence[Ints], items: int) -> Scorer:
    """A new model after so many epochs; users are sessions."""
    data = [
        (f"{user}", item, time)
        for user, history in enumerate(histories)
        if len(history) > 1
        for time, item in enumerate(history.tolist())
    ]
    dataset = SequentialDataset.build(data, fmt="SIT", seed=settings["seed"])
    model = GRU4Rec(
        layers=[settings["factors"]],
        n_epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        learning_rate=settings["lr"],
        dropout_p_embed=settings["dropout"],
        dropout_p_hidden=settings["dropout"],
        sample_alpha=settings["sample_alpha"],
        n_sample=settings["n_sample"],
        seed=settings["seed"],
    )
    model.fit(dataset)
    known = np.array(list(dataset.iid_map), np.int64)
    internal = np.full(items, -1, np.int64)
    internal[known] = list(dataset.iid_map.values())

    @torch.no_grad()
    def score(histories: Sequence[Ints]) -> np.ndarray:
        network = model.model.eval()
        sessions = [internal[history][internal[history] >= 0] for history in histories]
        scores = np.full((len(histories), items), -np.inf, np.float32)
        warm = [row for row, session in enumerate(sessions) if len(session)]
        if not warm:
            return scores
        longest = max(len(sessions[row]) for row in warm)
        padded = np.zeros((longest, len(warm)), np.int64)
        begun = np.zeros((longest, len(warm), 1), np.float32)
        for column, row in enumerate(warm):
            padded[longest - len(sessions[row]) :, column] = sessions[row]
            begun[longest - len(sessions[row]) :, column] = 1
        state = [torch.zeros(len(warm), settings["factors"])]
        for step in range(longest):
            inputs, vectors, bias = network.embed(torch.from_numpy(padded[step]), state)
            hidden = network.hidden_step(inputs, state)
            state[0] = state[0] * torch.from_numpy(begun[step])
        scores[np.ix_(warm, known)] = network.score_items(hidden, vectors, bias).numpy()[:, internal[known]]
        return scores

    return score
