"""The sampler: each prompt is read once, samples that begin alike are computed once, finished ones leave.

A sample draws each of its tokens with a number of its own (draws.py), so computing equal beginnings once changes
nothing but the time: samples of a row that draw the same token stay together, the others part.

Shape suffixes: U users, R rows, S samples that are not finished, C children.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from calrec.arrays.ragged import Ints, Ragged, running
from calrec.config import GenerateConfig
from calrec.generate.decoder import Decoder, bytes_per_token
from calrec.generate.draws import Draws, uniforms
from calrec.generate.rows import Flags, Rows
from calrec.generate.samples import Prompt, Sample, merge_samples

_MOST = 512  # users that are decoded together, however small the model

Decode = Callable[[Decoder, Sequence[Prompt]], list[list[Sample]]]
"""(decoder, prompts of one batch) → each prompt's continuations."""


def sample(network: Any, prompts: Sequence[Prompt], end: int, config: GenerateConfig) -> Iterator[list[Sample]]:
    """`config.samples` independent continuations of each prompt, equal ones with their count, in the order given.

    A user's samples depend on the seed and the user's id alone, up to rounding where a number falls onto a border.

    Raises:
        FloatingPointError: the model's logits are not finite; names the user.
    """
    return in_batches(
        network,
        prompts,
        lambda decoder, batch: _sample(decoder, batch, end, config),
        rows=config.samples,
        room=config.max_new_tokens,
        memory=config.memory_gb * 1e9,
    )


def in_batches(
    network: Any, prompts: Sequence[Prompt], decode: Decode, rows: int, room: int, memory: float
) -> Iterator[list[Sample]]:
    """Decode as many users together as the memory allows.

    Args:
        network: is as it was whenever a user's continuations are given.
        prompts: of all users.
        decode: what to do with a batch.
        rows: most rows of a user.
        room: most own tokens of a row.
        memory: bytes.
    """
    at = 0
    while at < len(prompts):
        batch = prompts[at : at + together(network, prompts[at:], rows, room, memory)]
        with Decoder(network) as decoder:
            found = decode(decoder, batch)
        yield from found
        at += len(batch)


def together(network: Any, prompts: Sequence[Prompt], rows: int, room: int, memory: float) -> int:
    """How many of these users fit into the memory, at least 1; see :func:`in_batches`."""
    per_token, prompts = bytes_per_token(network), prompts[:_MOST]
    longest = max(len(prompt.ids) for prompt in prompts)
    of_user = (longest + rows * room) * per_token.cache + rows * per_token.logits
    return max(1, min(len(prompts), int(memory / of_user)))


@torch.no_grad()
def _sample(decoder: Decoder, prompts: Sequence[Prompt], end: int, config: GenerateConfig) -> list[list[Sample]]:
    users, steps = len(prompts), config.max_new_tokens
    owner_S = np.repeat(np.arange(users), config.samples)
    owners = np.arange(users) if config.merge else owner_S
    rows = Rows(decoder, prompts, owners, steps)
    numbers = np.stack([uniforms(config.seed, prompt.user, steps, config.samples) for prompt in prompts], 1)
    alive_S, row_S = np.arange(len(owner_S)), owner_S if config.merge else np.arange(len(owner_S))
    finished = Finished(users)
    for step in range(steps):
        draws = Draws(rows.logits_RV, config.temperature)
        rows.require_finite(draws.norm_R)
        number_S = numbers[step].reshape(-1)[alive_S]
        there_S = torch.from_numpy(row_S).to(decoder.device)
        token_S = draws.draw(there_S, torch.from_numpy(number_S).to(decoder.device)).cpu().numpy()
        parent_C, token_C, child_S, first_C = children(row_S, token_S if config.merge else np.arange(len(row_S)))
        if not config.merge:
            token_C = token_S[first_C]
        there_C = (torch.from_numpy(each).to(decoder.device) for each in (parent_C, token_C))
        total_C = rows.total_R[parent_C] + draws.logprob(*there_C).cpu().numpy()
        count_C, first_C = np.bincount(child_S), alive_S[first_C]
        ends_C = token_C == end
        goes_on_C = ~ends_C & (step < steps - 1)
        for child in np.flatnonzero(~goes_on_C).tolist():
            parent, ends = parent_C[child], bool(ends_C[child])
            tokens = (*rows.tokens(parent), *(() if ends else (int(token_C[child]),)))
            one = Sample(tokens, float(total_C[child]), ends, int(count_C[child]))
            finished.add(int(rows.owner_R[parent]), int(first_C[child]), one)
        if not goes_on_C.any():
            break
        slots = rows.advance(parent_C[goes_on_C], total_C[goes_on_C], one_each(token_C[goes_on_C]))
        alive_S, row_S = move_samples(alive_S, child_S, goes_on_C, slots)
    return finished.lists()


def children(row_S: Ints, choice_S: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Samples of one row with one choice stay together.

    Returns:
        parent_C and choice_C of each child; child_S, the child of each sample; first_C, its first sample.
    """
    width = int(choice_S.max()) + 1
    keys, first_C, child_S = np.unique(row_S * width + choice_S, return_index=True, return_inverse=True)
    return keys // width, keys % width, child_S, first_C


def move_samples(alive_S: Ints, child_S: Ints, goes_on: Flags, slots: Ints) -> tuple[Ints, Ints]:
    """The samples that are left, and their rows, after the children that go on moved into slots."""
    row_C = np.full(len(goes_on), -1)
    row_C[goes_on] = slots
    stays = goes_on[child_S]
    return alive_S[stays], row_C[child_S[stays]]


def one_each(tokens: Ints) -> Ragged:
    """A run of one token for each row."""
    return Ragged(tokens.astype(np.int32), running(np.ones(len(tokens), dtype=np.int64)))


class Finished:
    """What has been generated, by user."""

    def __init__(self, users: int):
        self._found: list[list[tuple[float, Sample]]] = [[] for _ in range(users)]

    def add(self, user: int, place: float, one: Sample) -> None:
        """Keep a continuation; `place` is its order among the user's."""
        self._found[user].append((place, one))

    def lists(self) -> list[list[Sample]]:
        """Distinct continuations of each user in their order."""
        return [merge_samples([one for _, one in sorted(found, key=lambda pair: pair[0])]) for found in self._found]
