"""Tokens and labels of a packed row."""

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calrec.finetune.batches import Batch, Row, collate, row_tokens
from calrec.textify.tokens import TokenCache

OPEN, NEXT, END = [1, 2], [3], 0
ITEMS = [[11], [21, 22], [31, 32, 33]]
UNITS = TokenCache.units_of(*(np.array(ids, np.int32) for ids in (OPEN, NEXT)), [np.array(i, np.int32) for i in ITEMS])
CACHE = TokenCache(UNITS, end=END, max_tokens=50)
GROUPS = np.array([5, 6, 5], np.int32)


def labels(batch: Batch) -> list[int | None]:
    """The token to be predicted at each position, or None."""
    found: list[int | None] = [None] * batch.tokens
    for at, label in zip(batch.predict_N.tolist(), batch.label_N.tolist(), strict=True):
        assert found[at] is None
        found[at] = label
    return found


def test_a_batch_holds_the_joint_sequences_and_then_the_targets():
    batch = collate([Row([0], 1), Row([0, 2], 0)], CACHE, GROUPS, "last")
    sequences = [[1, 2, 11, 3, 21, 22, 0], [1, 2, 11, 3, 31, 32, 33, 3, 11, 0], [21, 22, 0], [11, 0]]
    assert batch.ids_T.tolist() == [*chain(*sequences)]
    assert batch.offsets == [0, 7, 17, 20, 22]
    assert batch.position_T.tolist() == [*chain(*(range(len(s)) for s in sequences))]
    assert (batch.prompt_B.tolist(), batch.group_B.tolist()) == ([4, 8], [6, 5])
    assert (len(batch), batch.tokens, batch.squares) == (2, 22, 49 + 100 + 9 + 4)


def test_last_predicts_the_target_and_its_end_alone():
    batch = collate([Row([0, 2], 1)], CACHE, GROUPS, "last")
    x = None
    assert labels(batch) == [x, x, x, x, x, x, x, 21, 22, 0, x, x, x, x]


def test_all_predicts_every_item_each_closed_by_the_end_token():
    batch = collate([Row([0, 2], 1)], CACHE, GROUPS, "all")
    x = None
    assert labels(batch) == [x, 11, END, 31, 32, 33, END, 21, 22, END, x, x, x, x]


def test_all_skips_items_that_were_cut_from_the_history():
    short = TokenCache(UNITS, END, max_tokens=6)
    batch = collate([Row([0, 1, 2], 0)], short, GROUPS, "all")
    assert batch.ids_T.tolist() == [1, 2, 31, 32, 33, 3, 11, 0, 11, 0]
    assert labels(batch) == [None, 31, 32, 33, END, 11, END, None, None, None]


BARE_UNITS = TokenCache.units_of(UNITS[4], np.empty(0, np.int32), [np.array(ids, np.int32) for ids in ITEMS])
BARE = TokenCache(BARE_UNITS, end=END, max_tokens=50)


def begun(batch: Batch) -> list[int]:
    """Where the end token is left out."""
    return sorted(batch.predict_N[batch.begin_M].tolist())


def test_without_phrases_a_place_is_trained_on_the_next_item_or_on_the_end_and_never_on_both():
    x = None
    batch = collate([Row([0, 2], 1), Row([], 0)], BARE, GROUPS, "all")
    assert batch.ids_T.tolist() == [1, 2, 11, 31, 32, 33, 21, 22, 0, 1, 2, 11, 0, 21, 22, 0, 11, 0]
    assert labels(batch) == [x, 11, 31, 32, 33, 21, 22, END, x, x, 11, END, x, x, x, x, x, x]
    assert begun(batch) == [1, 2, 5, 10] and batch.barred == END
    assert begun(collate([Row([0, 2], 1), Row([], 0)], BARE, GROUPS, "last")) == [5, 10]


def test_with_phrases_nothing_is_left_out():
    for train_on in ("last", "all"):
        assert begun(collate([Row([0, 2], 1)], CACHE, GROUPS, train_on)) == []


def by_hand(rows: list[Row], cache: TokenCache, train_on: str) -> tuple[list[int], list[int | None]]:
    """Tokens and labels, one after the other."""
    tokens: list[int] = []
    found: list[int | None] = []
    for row in rows:
        ids, ends, kept = cache.history(row.history)
        closed = [END] if len(cache.following) else []
        target = [*ITEMS[row.target], END]
        label: list[int | None] = [None] * (len(ids) - 1) + target + [None]
        for item, end in zip(row.history[len(row.history) - kept :], ends.tolist(), strict=True):
            if train_on == "all":
                label[end - len(ITEMS[item]) : end + len(closed)] = [*ITEMS[item], *closed]
        tokens += [*ids.tolist(), *target]
        found += label
    alone = [token for row in rows for token in [*ITEMS[row.target], END]]
    return tokens + alone, found + [None] * len(alone)


CODE = st.integers(0, len(ITEMS) - 1)
ROWS = st.lists(st.builds(Row, st.lists(CODE, max_size=6), CODE), min_size=1, max_size=5)


@given(ROWS, st.integers(1, 25), st.sampled_from(["last", "all"]), st.booleans())
def test_any_batch_equals_one_made_token_by_token(rows: list[Row], max_tokens: int, train_on: str, phrases: bool):
    cache = TokenCache((CACHE if phrases else BARE).units, END, max_tokens)
    batch = collate(rows, cache, GROUPS, train_on)
    assert (batch.ids_T.tolist(), labels(batch)) == by_hand(rows, cache, train_on)
    firsts = [at for at, label in enumerate(labels(batch)) if label in (11, 21, 31)]
    assert begun(batch) == ([] if phrases else firsts)
    joint = [len(cache.history(r.history)[0]) + len(ITEMS[r.target]) + 1 for r in rows]
    assert np.diff(batch.offsets).tolist() == joint + [len(ITEMS[r.target]) + 1 for r in rows]
    assert row_tokens(rows, cache).sum() == batch.tokens
