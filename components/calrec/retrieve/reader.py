"""What ranking asks of the model itself: vectors of histories and items, and exact log-probabilities of items."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ids, Ragged
from calrec.generate.samples import Prompt

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_TOKENS = 8192  # of one pass for vectors: more would only take memory
_CELLS = 2**24  # of cosines that are looked at at once: 64 MiB


class Reader:
    """A model and the token ids of the catalogue's groups."""

    def __init__(self, network: Any, targets: Ragged, memory: float, vectors: Floats | None = None):
        """Take the model.

        Args:
            network: where it runs.
            targets: token ids of each group's text, closed by the end token.
            memory: bytes for one pass over candidates.
            vectors: of the groups, when they are known from an index.

        Raises:
            ValueError: this architecture's prompts cannot be shared.
        """
        from calrec.generate.decoder import suits

        if why := suits(network):
            raise ValueError(
                f"retrieve.dense and retrieve.rerank need shared prompts, which {type(network).__name__} does not "
                f"allow ({why}); set both to 0"
            )
        self.network, self.targets, self.memory = network, targets, memory
        self._vectors = vectors

    def logprobs(self, prompts: Sequence[Prompt], groups: Sequence[Ints]) -> Iterator[NDArray[np.float64]]:
        """The exact log p(text | history) of some groups for each prompt."""
        from calrec.generate.scoring import logprobs

        return logprobs(self.network, prompts, groups, self.targets, self.memory)

    def vectors(self, sequences: Sequence[Ids]) -> Floats:
        """Directions (unit length) of the mean last-layer state of each sequence, [B, D]."""
        from calrec.generate.decoder import Decoder

        order = np.argsort([len(ids) for ids in sequences], kind="stable")
        turns = np.cumsum([len(sequences[at]) for at in order]) // _TOKENS
        found: list[Floats] = []
        with Decoder(self.network) as decoder:
            for part in np.split(order, np.flatnonzero(np.diff(turns)) + 1):
                found.append(decoder.vectors([sequences[at] for at in part]).cpu().numpy())
        vectors = np.empty((len(order), found[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(found)
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    @property
    def group_vectors(self) -> Floats:
        """v_T of every group, made once."""
        if self._vectors is None:
            self._vectors = self.vectors(self.targets.rows())
        return self._vectors

    def nearest(self, prompts: Sequence[Prompt], depth: int, allowed: NDArray[np.bool_] | None) -> Ints:
        """The groups with the highest cos(v_U, v_T) for each prompt, best first, ties by group: [B, depth or fewer].

        Exact: all cosines are computed, a block of prompts at a time.
        """
        asked, known = self.vectors([prompt.ids for prompt in prompts]), self.group_vectors
        among = np.arange(len(known)) if allowed is None else np.flatnonzero(allowed)
        depth = min(depth, len(among))
        rows = max(1, _CELLS // len(known))
        found = [_top(asked[at : at + rows] @ known[among].T, depth) for at in range(0, len(asked), rows)]
        best: Ints = among[np.concatenate(found)]
        return best


def _top(cosines: Floats, depth: int) -> Ints:
    """Columns of the highest values of each row, falling, ties by rising column; without sorting all."""
    least = -np.partition(-cosines, depth - 1, axis=1)[:, depth - 1]
    rows = []
    for row, bound in zip(cosines, least, strict=True):
        among = np.flatnonzero(row >= bound)
        rows.append(among[np.argsort(-row[among], kind="stable")][:depth])
    return np.stack(rows)
