"""SASRec and BERT4Rec of RecTools."""

import copy
import time
from collections.abc import Iterator, Sequence
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
from rectools.models.nn.transformers.data_preparator import SequenceDataset
from rectools.models.nn.transformers.ligr import LiGRLayers
from rectools.models.nn.transformers.negative_sampler import CatalogUniformSampler
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator
from rectools.models.nn.transformers.similarity import DistanceSimilarityModule
from torch.utils.data import DataLoader, Sampler

from tests.benchmarks.peers.split import Ints, Judge, Scorer


class Short:
    """Batches of histories that are about as long, padded to the longest of the batch and not of all.

    Most histories are a tenth as long as the longest, so that an epoch takes a fifth of the time. With padding masked
    and positions counted from the end, as here, padding changes no result. A batch is so many events, not so many
    users: every event weighs the same in the mean loss.
    """

    def get_dataloader_train(self) -> DataLoader:
        """Other batches every epoch."""
        sessions = SequenceDataset.from_interactions(self.train_dataset.interactions.df)  # type: ignore[attr-defined]
        lengths = np.array([len(session) for session in sessions.sessions])
        batches = Batches(lengths, self.batch_size * float(lengths.mean()))  # type: ignore[attr-defined]
        return DataLoader(sessions, collate_fn=self._collate_fn_train, batch_sampler=batches)

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


class Batches(Sampler[list[int]]):
    """Random batches of rows of like length, about `events` events each."""

    def __init__(self, lengths: Ints, events: float):
        self._lengths, self._events = lengths, events

    def __len__(self) -> int:
        return int(np.ceil(self._lengths.sum() / self._events))

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(len(self._lengths)).numpy()
        order = order[np.argsort(self._lengths[order], kind="stable")]
        batch_of = ((np.cumsum(self._lengths[order]) - self._lengths[order]) // self._events).astype(np.int64)
        batches = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
        for at in torch.randperm(len(batches)).tolist():
            yield batches[at].tolist()


class ShortSASRec(Short, SASRecDataPreparator):
    """Next items."""


class ShortBERT4Rec(Short, BERT4RecDataPreparator):
    """Masked items."""


class SharedSampler(CatalogUniformSampler):
    """The same negatives for all places of a batch: more of them in less time."""

    def get_negatives(
        self, batch_dict: Any, lowest_id: int, highest_id: int, session_len_limit: int | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Uniform over the catalogue, [users, places, negatives]."""
        users, places = batch_dict["x"].shape
        return torch.randint(lowest_id, highest_id, (self.n_negatives,)).expand(users, session_len_limit or places, -1)


class SharedSimilarity(DistanceSimilarityModule):
    """Scores of the positive and of shared negatives, the latter by one product."""

    def _get_pos_neg_logits(
        self, session_embs: torch.Tensor, item_embs: torch.Tensor, candidate_item_ids: torch.Tensor
    ) -> torch.Tensor:
        positive = (session_embs * item_embs[candidate_item_ids[:, :, 0]]).sum(-1, keepdim=True)
        return torch.cat([positive, session_embs @ item_embs[candidate_item_ids[0, 0, 1:]].T], -1)


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
    options |= {"negative_sampler_type": SharedSampler, "similarity_module_type": SharedSimilarity}
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
