"""Rows and labels of a batch, and the order of a stage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.finetune.batches import IGNORE, Row, collate, order
from calrec.model.loading import Users
from calrec.textify.tokens import TokenCache

OPEN, NEXT, END = [1, 2], [3], 0
ITEMS = [[11], [21, 22], [31, 32, 33]]
UNITS = TokenCache.units_of(*(np.array(ids, np.int32) for ids in (OPEN, NEXT)), [np.array(i, np.int32) for i in ITEMS])
CACHE = TokenCache(UNITS, end=END, max_tokens=50)
GROUPS = np.array([5, 6, 5], np.int32)


def test_a_batch_holds_prompt_target_and_padding():
    batch = collate([Row([0], 1), Row([0, 2], 0)], CACHE, GROUPS, "last")
    assert batch.joint_BT.tolist() == [
        [1, 2, 11, 3, 21, 22, 0, 0, 0, 0],
        [1, 2, 11, 3, 31, 32, 33, 3, 11, 0],
    ]
    assert batch.target_BS.tolist() == [[21, 22, 0], [11, 0, 0]]
    assert (batch.prompt_B.tolist(), batch.length_B.tolist(), batch.group_B.tolist()) == ([4, 8], [7, 10], [6, 5])


def test_last_predicts_the_target_and_its_end_alone():
    batch = collate([Row([0, 2], 1)], CACHE, GROUPS, "last")
    x = IGNORE
    assert batch.joint_BT.tolist() == [[1, 2, 11, 3, 31, 32, 33, 3, 21, 22, 0]]
    assert batch.labels_BT.tolist() == [[x, x, x, x, x, x, x, 21, 22, 0, x]]


def test_all_predicts_every_item_each_closed_by_the_end_token():
    batch = collate([Row([0, 2], 1)], CACHE, GROUPS, "all")
    x = IGNORE
    assert batch.labels_BT.tolist() == [[x, 11, END, 31, 32, 33, END, 21, 22, END, x]]


def test_all_skips_items_that_were_cut_from_the_history():
    short = TokenCache(UNITS, END, max_tokens=6)
    batch = collate([Row([0, 1, 2], 0)], short, GROUPS, "all")
    assert batch.joint_BT.tolist() == [[1, 2, 31, 32, 33, 3, 11, 0]]
    assert batch.labels_BT.tolist() == [[IGNORE, 31, 32, 33, END, 11, END, IGNORE]]


def by_hand(rows: list[Row], cache: TokenCache, train_on: str) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and labels of each row, one token after the other."""
    joints, labels = [], []
    for row in rows:
        ids, ends, kept = cache.history(row.history)
        target = [*ITEMS[row.target], END]
        joint, label = [*ids.tolist(), *target], [IGNORE] * (len(ids) - 1) + target + [IGNORE]
        for item, end in zip(row.history[len(row.history) - kept :], ends.tolist(), strict=True):
            if train_on == "all":
                label[end - len(ITEMS[item]) : end + 1] = [*ITEMS[item], END]
        joints.append(joint)
        labels.append(label)
    longest = max(map(len, joints))
    return [j + [END] * (longest - len(j)) for j in joints], [i + [IGNORE] * (longest - len(i)) for i in labels]


CODE = st.integers(0, len(ITEMS) - 1)


@given(
    st.lists(st.builds(Row, st.lists(CODE, max_size=6), CODE), min_size=1, max_size=5),
    st.integers(1, 25),
    st.sampled_from(["last", "all"]),
)
def test_any_batch_equals_one_made_token_by_token(rows: list[Row], max_tokens: int, train_on: str):
    cache = TokenCache(UNITS, END, max_tokens)
    batch = collate(rows, cache, GROUPS, train_on)
    assert (batch.joint_BT.tolist(), batch.labels_BT.tolist()) == by_hand(rows, cache, train_on)
    assert batch.length_B.tolist() == [len(cache.history(r.history)[0]) + len(ITEMS[r.target]) + 1 for r in rows]


def users(lengths: list[int], domains: list[str]) -> Users:
    ends = np.array(lengths)
    return Users(
        [f"u{i}" for i in range(len(lengths))], np.array(domains, dtype=object),
        [np.arange(n + 2, dtype=np.int32) for n in lengths], ends, ends, ends + 1,
    )  # fmt: skip


def test_an_epoch_holds_every_trainable_user_once():
    of = users([5, 1, 4, 6, 2], ["a"] * 5)  # user 1 has one training item: no history and target
    drawn = order(of, steps=4, batch_size=2, mix="proportional", position="random", seed=0)
    assert sorted(drawn.user.tolist()) == [0, 0, 2, 2, 3, 3, 4, 4]


def test_targets_are_training_items_with_a_history():
    of = users([2, 3, 9, 30], list("abab"))
    drawn = order(of, 200, 4, "proportional", "random", 1)
    assert ((drawn.cut >= 1) & (drawn.cut < of.train_end[drawn.user])).all()
    assert set(drawn.cut[drawn.user == 2].tolist()) == set(range(1, 9))
    newest = order(of, 50, 4, "proportional", "last", 1)
    assert (newest.cut == of.train_end[newest.user] - 1).all()


@pytest.mark.parametrize(("mix", "share"), [("proportional", 0.9), ("sqrt", 0.75), ("uniform", 0.5)])
def test_the_mix_of_categories(mix: str, share: float):
    of = users([5] * 1000, ["big"] * 900 + ["small"] * 100)
    drawn = order(of, 1000, 10, mix, "random", 0)
    assert (of.domain[drawn.user] == "big").mean() == pytest.approx(share, abs=0.02)


def test_the_order_is_a_function_of_the_seed():
    of = users([9] * 50, ["a"] * 50)
    one, same, other = (order(of, 20, 4, "sqrt", "random", seed) for seed in (3, 3, 4))
    assert (one.user == same.user).all() and (one.cut == same.cut).all()
    assert not (one.user == other.user).all()


def test_rows_of_a_batch_have_similar_lengths():
    of = users(list(range(3, 403)), ["a"] * 400)
    drawn = order(of, 64, 8, "proportional", "last", 0)
    spread = np.ptp(drawn.cut.reshape(64, 8), axis=1).mean()
    assert spread < 120  # of 400; unsorted batches of 8 spread over about 310
