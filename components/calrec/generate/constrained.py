"""Decoding that can only write items: a trie of the catalogue says which tokens may follow.

A token without an alternative is not drawn: runs of such tokens are read in one pass. Log-probabilities are the model's
own, over the whole vocabulary, so they say what it would have given the text freely.

Shape suffixes: U users, R rows, S samples that are not finished, C children of rows, M candidates of a beam search.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from calrec.arrays.ragged import Ids, Ints, Ragged, running, spans
from calrec.config import GenerateConfig
from calrec.generate.decoder import Decoder
from calrec.generate.draws import uniforms
from calrec.generate.rows import Floats, Rows
from calrec.generate.samples import Prompt, Sample, not_finite
from calrec.generate.shared_prefix import Finished, children, in_batches, move_samples
from calrec.generate.trie import ROOT, Trie, best


def sample(network: Any, prompts: Sequence[Prompt], items: Ragged, config: GenerateConfig) -> Iterator[list[Sample]]:
    """Items as continuations of each prompt: `config.samples` independent draws, or as many beams, best first.

    Sampling is over the tokens that may follow, p ∝ exp(logit / temperature) among them. A beam search keeps the most
    likely beginnings and is deterministic; temperature does not matter to it.

    Args:
        network: a causal LM whose prompts can be shared.
        prompts: of all users.
        items: token ids of each distinct item text, closed by the end token; its longest row is the most that is read,
            whatever `config.max_new_tokens`.
        config: samples or beams, temperature, seed, memory.

    Raises:
        FloatingPointError: the model's logits are not finite; names the user.
    """
    trie, room = Trie.build(items), int(items.lengths().max())
    decode = _beams if config.trie == "beam" else _samples
    return in_batches(
        network,
        prompts,
        lambda decoder, batch: decode(_Walk(decoder, batch, trie, room), config),
        rows=config.samples,
        room=room,
        memory=config.memory_gb * 1e9,
    )


@torch.no_grad()
def _samples(walk: "_Walk", config: GenerateConfig) -> list[list[Sample]]:
    users = len(walk.prompts)
    numbers = np.stack([uniforms(config.seed, p.user, walk.room, config.samples) for p in walk.prompts], 1)
    finished = Finished(users)
    slot_U, done = walk.start()
    for user, one in done:
        finished.add(user, 0, dataclasses.replace(one, count=config.samples))
    alive_S = np.flatnonzero(np.repeat(slot_U >= 0, config.samples))
    row_S, step = slot_U[alive_S // config.samples], 0
    while len(alive_S):
        child_S = walk.draw(row_S, numbers[step].reshape(-1)[alive_S], config.temperature)
        parent_C, node_C, of_S, first_C = children(row_S, child_S)
        slot_C, done = walk.grow(parent_C, node_C)
        count_C = np.bincount(of_S)
        for child, one in done:
            first = int(alive_S[first_C[child]])
            finished.add(first // config.samples, first, dataclasses.replace(one, count=int(count_C[child])))
        alive_S, row_S = move_samples(alive_S, of_S, slot_C >= 0, slot_C[slot_C >= 0])
        step += 1
    return finished.lists()


@torch.no_grad()
def _beams(walk: "_Walk", config: GenerateConfig) -> list[list[Sample]]:
    users = len(walk.prompts)
    _, done = walk.start()
    ended = [[one for user, one in done if user == wanted] for wanted in range(users)]
    while True:
        row_M, node_M, score_M = walk.expand()
        if not len(row_M):
            break
        user_M = walk.rows.owner_R[row_M]
        # What has ended keeps its place among the beams, so that no worse beginning is followed for its sake.
        owner = np.array([user for user in range(users) for _ in ended[user]], dtype=np.int64)
        scores = np.array([one.logprob for found in ended for one in found])
        kept = best(np.append(score_M, scores), np.append(user_M, owner), config.samples)
        kept = np.sort(kept[kept < len(row_M)])
        if not len(kept):
            break
        parent_C = row_M[kept].astype(np.int64)
        user_C = user_M[kept]
        _, done = walk.grow(parent_C, node_M[kept].astype(np.int64))
        for child, one in done:
            ended[user_C[child]].append(one)
    return [sorted(found, key=lambda one: (-one.logprob, one.tokens))[: config.samples] for found in ended]


Done = list[tuple[int, Sample]]
"""(index of a child, what it became) for children that reached an item's end."""


class _Walk:
    """Rows of prompts, each at a node of the trie that has a choice, or at a leaf when it has ended."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Prompt], trie: Trie, room: int):
        self.prompts, self.trie, self.room = prompts, trie, room
        self.rows = Rows(decoder, prompts, np.arange(len(prompts)), room)
        self.node_R = np.full(len(prompts), ROOT, dtype=np.int32)
        self._take_logits()

    def _take_logits(self) -> None:
        norm_R = self.rows.logits_RV.logsumexp(-1)
        self.rows.require_finite(norm_R)
        self._norm_R = norm_R.double().cpu().numpy()
        self._logits_RV = self.rows.logits_RV.cpu().numpy()

    def _total(self, row: Ints, token: Ids) -> Floats:
        """Log-probability of rows and a token behind each."""
        total: Floats = self.rows.total_R[row] + self._logits_RV[row, token] - self._norm_R[row]
        return total

    def start(self) -> tuple[Ints, Done]:
        """Read what every item begins with; the row of each user, and who has ended (a catalogue of one item)."""
        everyone = np.arange(len(self.prompts))
        runs, final = self.trie.skip_forced(self.node_R)
        return self._read(everyone, runs, final) if len(runs.flat) else (everyone, [])

    def draw(self, row_S: Ints, uniform_S: Floats, temperature: float) -> Ints:
        """The node that each sample goes on to.

        Raises:
            FloatingPointError: no token that may follow has a probability.
        """
        node_S = self.trie.draw(self._logits_RV, self.node_R, row_S, uniform_S, temperature)
        if (node_S < 0).any():
            row = row_S[int((node_S < 0).argmax())]
            owner = self.rows.owner_R[row]
            tokens = len(self.prompts[owner].ids) + int(self.rows.length_R[row])
            raise not_finite(self.prompts[owner].user, tokens)
        return node_S.astype(np.int64)

    def expand(self) -> tuple[Ints, Ids, Floats]:
        """Every node that a row may go on to: the row, the node, the log-probability up to there."""
        row_M, node_M, _ = self.trie.expand(self._logits_RV, self.node_R)
        return row_M.astype(np.int64), node_M, self._total(row_M.astype(np.int64), self.trie.token[node_M])

    def grow(self, parent_C: Ints, node_C: Ints) -> tuple[Ints, Done]:
        """Rows go on to nodes, and further to the next choice or an item's end.

        Returns:
            the row of each child, -1 when it has ended; and what has ended.
        """
        runs, final_C = self.trie.skip_forced(node_C)
        sizes = runs.lengths()
        flat = np.insert(runs.flat, runs.offsets[:-1], self.trie.token[node_C])
        return self._read(parent_C, Ragged(flat, running(sizes + 1)), final_C)

    def _read(self, parent_C: Ints, runs: Ragged, final_C: Ids) -> tuple[Ints, Done]:
        """Read each child's run of tokens but an end token, which is only counted."""
        ends_C = self.trie.leaf_group[final_C] >= 0
        total_C = self._total(parent_C, runs.flat[runs.offsets[:-1]])
        sizes = runs.lengths() - ends_C
        reads_C = sizes > 0
        slot_C = np.full(len(parent_C), -1, dtype=np.int64)
        done = [
            (child, Sample(self.rows.tokens(int(parent_C[child])), float(total_C[child]), True))
            for child in np.flatnonzero(~reads_C).tolist()
        ]
        if not reads_C.any():
            self.node_R = np.full(len(self.rows), final_C[0], dtype=np.int32)  # a leaf: nothing follows
            return slot_C, done
        fed = Ragged(runs.flat[spans(runs.offsets[:-1][reads_C], sizes[reads_C])], running(sizes[reads_C]))
        slot_C[reads_C] = self.rows.advance(parent_C[reads_C], total_C[reads_C], fed)
        self.node_R = np.empty(len(self.rows), dtype=np.int32)
        self.node_R[slot_C[reads_C]] = final_C[reads_C]
        self._take_logits()
        for child in np.flatnonzero(reads_C & ends_C).tolist():
            row = slot_C[child : child + 1]
            total = self._total(row, self.trie.token[final_C[child : child + 1]])
            done.append((child, Sample(self.rows.tokens(int(row[0])), float(total[0]), True)))
        slot_C[ends_C] = -1
        return slot_C, done
