"""Which users train at which step, and which rows are worked on together."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.config import StageConfig
from calrec.finetune.order import Order, order, shares
from calrec.model.loading import Users


def drawn_by(of: Users, steps: int, batch_size: int, **settings: object) -> Order:
    return order(of, replace(StageConfig(), steps=steps, batch_size=batch_size, **settings))  # type: ignore[arg-type]


def users(lengths: list[int], domains: list[str]) -> Users:
    ends = np.array(lengths)
    return Users(
        [f"u{i}" for i in range(len(lengths))], np.array(domains, dtype=object),
        [np.arange(n + 2, dtype=np.int32) for n in lengths], ends, ends, ends + 1,
    )  # fmt: skip


def test_an_epoch_holds_every_trainable_user_once():
    of = users([5, 1, 4, 6, 2], ["a"] * 5)  # user 1 has one training item: no history and target
    drawn = drawn_by(of, 4, 2)
    assert sorted(drawn.user.tolist()) == [0, 0, 2, 2, 3, 3, 4, 4]


def test_targets_are_training_items_with_a_history():
    of = users([2, 3, 9, 30], list("abab"))
    drawn = drawn_by(of, 200, 4, seed=1)
    assert ((drawn.cut >= 1) & (drawn.cut < of.train_end[drawn.user])).all()
    assert set(drawn.cut[drawn.user == 2].tolist()) == set(range(1, 9))
    newest = drawn_by(of, 50, 4, position="last", seed=1)
    assert (newest.cut == of.train_end[newest.user] - 1).all()


@pytest.mark.parametrize(
    ("mix", "share"), [("proportional", 0.9), ("sqrt", 0.75), ("uniform", 0.5), ("big=1,small=3", 0.25)]
)
def test_the_mix_of_categories(mix: str, share: float):
    of = users([5] * 1000, ["big"] * 900 + ["small"] * 100)
    drawn = drawn_by(of, 1000, 10, mix=mix)
    assert (of.domain[drawn.user] == "big").mean() == pytest.approx(share, abs=0.02)


def test_the_order_is_a_function_of_the_seed():
    of = users([9] * 50, ["a"] * 50)
    one, same, other = (drawn_by(of, 20, 4, mix="sqrt", seed=seed) for seed in (3, 3, 4))
    assert (one.user == same.user).all() and (one.cut == same.cut).all()
    assert not (one.user == other.user).all()


def test_weights_must_name_each_category():
    of = users([5] * 4, ["big", "big", "small", "small"])
    assert set(drawn_by(of, 20, 4, mix="big=2,small=0").user.tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"mix = big=2 must name each category that is trained on.*: big, small"):
        drawn_by(of, 20, 4, mix="big=2")
    with pytest.raises(ValueError, match=r"mix = big=2,small=1,deli=1 must name each"):
        drawn_by(of, 20, 4, mix="big=2,small=1,deli=1")


# --- shares -----------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 900), min_size=1, max_size=24)


@given(LENGTHS, st.integers(1, 4), st.integers(0, 3000))
def test_each_row_is_worked_on_once_and_each_turn_has_as_many_rows_on_every_rank(
    lengths: list[int], ranks: int, budget: int
):
    tokens = np.array(lengths * ranks)  # ranks must divide the rows
    dealt = shares(tokens, ranks, budget)
    assert sorted(np.concatenate([rows for own in dealt for rows in own]).tolist()) == list(range(len(tokens)))
    assert len({tuple(map(len, own)) for own in dealt}) == 1
    for rows in (rows for own in dealt for rows in own):
        assert not budget or tokens[rows].sum() <= budget or len(dealt[0]) == len(lengths)


def test_one_row_keeps_the_order_and_a_budget_splits_evenly():
    tokens = np.array([100, 900, 500, 400])
    assert [rows.tolist() for rows in shares(tokens, 1, 0)[0]] == [[0, 1, 2, 3]]
    assert [rows.tolist() for rows in shares(tokens, 1, 1000)[0]] == [[0, 1], [2, 3]]
    assert [[rows.tolist() for rows in own] for own in shares(tokens, 2, 0)] == [[[0, 1]], [[2, 3]]]
