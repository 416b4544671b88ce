"""SASRec and BERT4Rec of RecTools."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.bert4rec import BERT4RecDataPreparator
from rectools.models.nn.transformers.ligr import LiGRLayers
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

from tests.benchmarks.peers.split import Ints, Judge, Scorer


class Short:
    """Pads a batch to its longest history and not to the longest of all, which are ten times as long as most.

    With padding masked and positions counted from the end, as here, the results are the same.
    """

    def _collate_fn_train(self, batch: Any) -> Any:
        return self._short(batch, super()._collate_fn_train, -self.train_session_max_len_addition)  # type: ignore

    def _collate_fn_recommend(self, batch: Any) -> Any:
        return self._short(batch, super()._collate_fn_recommend, 1)  # type: ignore

    def _short(self, batch: Any, collate: Any, more: int) -> Any:
        whole = self.session_max_len
        self.session_max_len = min(whole, max(len(session) for session, _, _ in batch) + more)
        try:
            return collate(batch)
        finally:
            self.session_max_len = whole


class ShortSASRec(Short, SASRecDataPreparator):
    """Next items."""


class ShortBERT4Rec(Short, BERT4RecDataPreparator):
    """Masked items."""


@dataclass
class Stopper(Callback):
    """Judges every epoch on validation users, keeps the best weights, and stops when they are old."""

    model: Any
    judge: Judge
    rows: Ints
    patience: int
    best: float = -1.0
    epoch: int = 0
    weights: Any = None
    seconds: float = 0.0
    start: float = 0.0

    def __deepcopy__(self, memo: Any) -> "Stopper":
        """RecTools copies its trainer before it fits; what is learned here must come back."""
        return self

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge."""
        seconds = time.perf_counter() - self.start
        self.seconds += seconds
        epoch = trainer.current_epoch + 1
        figures = self.judge.figures(scorer(self.model, len(self.judge.split.item_id)), "valid", self.rows)
        pl_module.train()
        if figures["ndcg_at_10"] > self.best:
            self.best, self.epoch = figures["ndcg_at_10"], epoch
            self.weights = copy.deepcopy(pl_module.torch_model.state_dict())
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        loss = float(trainer.callback_metrics["train_loss"])
        print(f"epoch {epoch}: {seconds:.1f} s, loss {loss:.4f}, validation {shown}", flush=True)
        trainer.should_stop = epoch - self.epoch >= self.patience


def train(kind: str, settings: dict[str, Any], histories: Sequence[Ints], judge: Judge, patience: int) -> tuple[
    Scorer, dict[str, float]
]:  # fmt: skip
    """A model trained on histories, at its best epoch on validation, or with patience 0 after all of them.

    Returns:
        the scorer, and seconds and epochs of the training.
    """
    epochs, layers, options = settings["epochs"], settings["layers"], dict(settings)
    del options["layers"]
    if kind == "sasrec":
        options["data_preparator_type"] = ShortSASRec
        if layers == "ligr":
            options["transformer_layers_type"] = LiGRLayers
        model = SASRecModel(**options, use_key_padding_mask=True)
    else:
        model = BERT4RecModel(**options, data_preparator_type=ShortBERT4Rec, use_key_padding_mask=True)
    stopper = Stopper(model, judge, judge.split.judged("valid", most=5000), patience)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "devices": 1}
    callbacks: list[Callback] = [stopper] if patience else []
    model._trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, callbacks=callbacks, **quiet
    )
    start = time.perf_counter()
    model.fit(Dataset.construct(events(histories)))
    facts = {"seconds": time.perf_counter() - start, "epochs": model.fit_trainer.current_epoch}
    if patience:
        model.lightning_model.torch_model.load_state_dict(stopper.weights)
        facts |= {"best_epoch": stopper.epoch, "seconds_per_epoch": stopper.seconds / facts["epochs"]}
    return scorer(model, len(judge.split.item_id)), facts


def events(histories: Sequence[Ints]) -> pd.DataFrame:
    """Histories as RecTools takes them; the place in the history is the time."""
    lengths = [len(items) for items in histories]
    place = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(histories)), lengths),
            Columns.Item: np.concatenate(histories),
            Columns.Weight: 1.0,
            Columns.Datetime: np.datetime64("2000-01-01") + place.astype("timedelta64[D]"),
        }
    )


def scorer(model: Any, items: int) -> Scorer:
    """The library's own encoder and item vectors, for histories that it did not see."""
    preparator = model.data_preparator
    known = preparator.get_known_item_ids().astype(np.int64)
    internal = np.zeros(items, np.int64)
    internal[known] = preparator.get_known_items_sorted_internal_ids()

    @torch.no_grad()
    def score(histories: Sequence[Ints]) -> np.ndarray:
        network = model.lightning_model.torch_model.eval()
        sessions = [internal[history][internal[history] > 0].tolist() for history in histories]
        scores = np.full((len(histories), items), -np.inf, np.float32)
        warm = [row for row, session in enumerate(sessions) if session]
        if warm:
            batch = preparator._collate_fn_recommend([(sessions[row], [], {}) for row in warm])
            vectors = network.item_model.get_all_embeddings()
            users = network.encode_sessions(batch, vectors)[:, -1, :]
            scores[np.ix_(warm, known)] = (users @ vectors.T).numpy()[:, internal[known]]
        return scores

    return score
