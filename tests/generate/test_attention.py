"""Branches of shared prompts against the plain forward pass of each whole sequence."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.generate.attention import Branches, shared_attention
from calrec.generate.decoder import Decoder
from tests.finetune.networks import PACKED, VOCABULARY
from tests.generate.exact import asked, lively, plain_logits

PROMPTS = [prompt.ids for prompt in asked()]
NETWORKS = {family: lively(family) for family in ("llama", "mistral")}


def extended(network: Any, owners: Sequence[int], runs: Sequence[Sequence[Any]], grid: bool) -> list[torch.Tensor]:
    """Logits behind all tokens of each run, after several reads; runs[i] are the runs of one read."""
    found = []
    with Decoder(network) as decoder:
        read, *_ = decoder.prefill(PROMPTS)
        branches = Branches(read, torch.tensor(owners), grid=grid)
        for run in runs:
            tokens = torch.from_numpy(np.concatenate(run).astype(np.int64))
            found.append(decoder.extend(branches, tokens, torch.tensor([len(each) for each in run])))
    return found


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("family", PACKED)
def test_ragged_reads_of_several_rows_equal_the_plain_forward_pass(family: str, grid: bool):
    network, rng, owners = lively(family), np.random.default_rng(0), [2, 0, 3, 2, 0, 2]  # prompt 1 has no row
    runs = [[rng.integers(0, VOCABULARY, size) for size in rng.integers(1, 8, len(owners))] for _ in range(4)]
    found = extended(network, owners, runs, grid)
    before = [list(PROMPTS[owner]) for owner in owners]
    for step, logits in zip(runs, found, strict=True):
        expected = []
        for row, run in enumerate(step):
            before[row] += run.tolist()
            expected.append(plain_logits(network, before[row])[-len(run) :])
        assert torch.allclose(logits, torch.cat(expected), atol=5e-5)
    assert max(map(len, before)) > 33 + 16  # some rows leave their prompt behind their windows


@pytest.mark.parametrize("owners", [[0], [3], [1, 1, 1], [0, 1, 2, 3], [2, 2, 0]])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2"])
def test_the_padded_grid_equals_the_loop(family: str, owners: list[int]):
    network, rng = lively(family), np.random.default_rng(1)
    sizes = [[1] * len(owners), list(rng.integers(1, 6, len(owners))), [20] * len(owners), [1] * len(owners)]
    runs = [[rng.integers(0, VOCABULARY, size) for size in each] for each in sizes]
    loop, grid = (extended(network, owners, runs, grid) for grid in (False, True))
    for a, b in zip(loop, grid, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_prompt_is_seen_token_by_token_in_order():
    network = lively("llama")
    swapped = list(PROMPTS[2])
    swapped[-9], swapped[-5] = swapped[-5], swapped[-9]
    with Decoder(network) as decoder:
        read, *_ = decoder.prefill([PROMPTS[2], np.array(swapped, np.int32)])
        one, other = decoder.extend(Branches(read, torch.tensor([0, 1])), torch.tensor([5, 5]))
    assert (one - other).std() > 0.01  # the tolerance above would notice


MOVES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 99), min_size=1, max_size=9), st.lists(st.integers(1, 7), min_size=9, max_size=9)
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["llama", "mistral"]), st.booleans(), st.lists(st.integers(0, 3), min_size=1, max_size=4), MOVES)
def test_selected_rows_equal_rows_read_from_scratch(family: str, grid: bool, owners: list[int], moves):
    """Rows are permuted, copied and dropped, grow and shrink in number, and read on."""
    network, rng = NETWORKS[family], np.random.default_rng(0)
    rows = [list(PROMPTS[owner]) for owner in owners]
    with Decoder(network) as decoder:
        read, *_ = decoder.prefill(PROMPTS)
        branches, found = Branches(read, torch.tensor(owners), grid=grid), []
        for wanted, sizes in moves:
            parents = [each % len(rows) for each in wanted]
            slots = branches.select(torch.tensor(parents)).tolist()
            assert sorted(slots) == list(range(len(parents))) and len(branches) == len(parents)
            old, rows = rows, [[] for _ in parents]
            for slot, parent in zip(slots, parents, strict=True):
                rows[slot] = list(old[parent])
            runs = [rng.integers(0, VOCABULARY, size).tolist() for size in sizes[: len(rows)]]
            rows = [row + run for row, run in zip(rows, runs, strict=True)]
            logits = decoder.extend(
                branches, torch.tensor([*itertools.chain(*runs)]), torch.tensor([len(run) for run in runs])
            )
            last = np.cumsum([len(run) for run in runs]) - 1
            found.append((rows, logits[torch.from_numpy(last)]))
    for rows, logits in found:
        expected = torch.stack([plain_logits(network, row)[-1] for row in rows])
        assert torch.allclose(logits, expected, atol=5e-5)


@settings(deadline=None)
@given(st.integers(1, 9), st.data())
def test_rows_that_stay_are_not_moved(rows: int, data):
    parents = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=12))
    with Decoder(NETWORKS["llama"]) as decoder:
        read, *_ = decoder.prefill(PROMPTS[:1])
    branches = Branches(read, torch.zeros(rows, dtype=torch.long))
    slots = branches.select(torch.tensor(parents)).tolist()
    kept = {parent for parent in parents if parent < len(parents)}
    assert sum(slot == parent for slot, parent in zip(slots, parents, strict=True)) >= len(kept)
    assert all(slots[parents.index(parent)] == parent for parent in kept)


@pytest.mark.parametrize(
    "given", [{"shared": None}, {"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"attention_mask": torch.ones(1)}]
)
def test_a_layer_that_wants_something_else_is_refused(given):
    states = torch.zeros(1, 4, 3, 8)
    options = {"shared": object(), "attention_mask": None, **given}
    with pytest.raises(ValueError, match="cannot share a prompt"):
        shared_attention(None, states, states, states, **options)
