"""Learned fusion: features by hand, weights against the formula, and what they may not have seen."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from calrec.config import GenerateConfig, RetrieveConfig
from calrec.generate.samples import Generation, Prompt
from calrec.generate.texts import Generator
from calrec.model.loading import Users, load_model, load_users
from calrec.retrieve.bm25 import Index
from calrec.retrieve.catalogue import load_catalogue
from calrec.retrieve.evidence import FEATURES, Evidence, Fusion, places, smooth
from calrec.retrieve.following import countable
from calrec.retrieve.learning import learn_fusion
from calrec.retrieve.reader import Reader
from calrec.retrieve.search import Search
from tests.retrieve.test_ranking import catalogue

HISTORIES = [[0, 2], [0, 2], [0, 3], [0, 0], [1, 4]]


def features(evidence: Evidence, groups: list[int], history: list[int]) -> dict[str, list[float]]:
    its = np.array(groups)
    near = np.asarray(evidence.near([np.array(history, np.int64)]).todense())[0][its].astype(np.float64)
    nothing = np.zeros(len(its))
    found = evidence.features(its, nothing - 1.5, np.array(history, np.int64), near, nothing + 2, nothing + 3)
    return dict(zip(FEATURES, found.T.tolist(), strict=True))


def test_features_by_hand():
    found = features(Evidence.of(HISTORIES, catalogue(list("abcde"), [1] * 5), fused=True), [0, 2, 4], [2, 4, 0, 4, 0])
    assert found["model"] == pytest.approx([-math.log(3)] * 3)
    assert (found["last_title"], found["recent_titles"]) == ([2.0] * 3, [3.0] * 3)
    assert found["followed"] == pytest.approx([math.log(2), math.log(3), 0])
    assert found["popular"] == pytest.approx([math.log(6), math.log(3), math.log(2)])
    assert found["bought"] == pytest.approx([math.log(3), math.log(2), math.log(3)])
    assert found["bought_lately"] == pytest.approx([1, 1 / 5, 1 / 2])
    assert found["log_similar"] == pytest.approx(np.log(np.array(found["similar"]) + 0.01).tolist())
    assert found["similar"][0] > found["similar"][1] > found["similar"][2]
    for name in ("similar_place", "model_place", "title_place"):  # of the others all scores are equal
        assert found[name] == pytest.approx([1, 1 / 2, 1 / 3])
    # The history's own groups: each cosine with itself is 1, the events weigh .8 ** age.
    assert found["similar"][2] == pytest.approx(0.8**3 + 0.8, rel=1e-6)
    assert found["similar"][1] > 0.8**4


def test_places_of_equal_scores_are_by_group():
    assert places(np.array([5, 3, 1]), np.array([2.0, 0.5, 2.0])).tolist() == pytest.approx([1 / 2, 1 / 3, 1])


def test_a_text_that_the_model_cannot_spell_is_as_good_as_unlikely():
    found = smooth(np.array([-1.0, -2.0, -900.0]))
    likely = 1 / (1 + math.exp(-1))
    assert found == pytest.approx([math.log(0.99 * p + 0.01 / 3) for p in (likely, 1 - likely, 0)])
    assert not len(smooth(np.empty(0)))


def test_features_of_nobody():
    found = features(Evidence.of(HISTORIES, catalogue(list("abcde"), [1] * 5), fused=True), [0, 4], [])
    assert found["similar"] == found["followed"] == found["bought"] == found["bought_lately"] == [0.0, 0.0]


def test_groups_of_several_items_are_counted_together():
    evidence = Evidence.of([[0, 2], [1, 3]], catalogue(["a", "b"], [2, 2]), fused=True)  # items 0 and 1, 2 and 3
    assert evidence.events.tolist() == [2, 2]
    assert evidence.following.next(0)[1].tolist() == [2]


def test_it_is_read_as_it_was_written(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    evidence = Evidence.of(HISTORIES, catalogue(list("abcde"), [1] * 5), fused=True)
    evidence.save(tmp_path)
    same = Evidence.load(tmp_path)
    for history in ([], [0], [4, 1]):
        assert features(evidence, [0, 1, 2, 3, 4], history) == features(same, [0, 1, 2, 3, 4], history)
    plain = Evidence.of(HISTORIES, catalogue(list("abcde"), [1] * 5), fused=False)
    plain.save(tmp_path / "plain")
    assert Evidence.load(tmp_path / "plain").similar is None
    assert Fusion.load(tmp_path) is None
    fusion = Fusion(dict.fromkeys(FEATURES, 0.5), 3, 1)
    fusion.save(tmp_path)
    assert Fusion.load(tmp_path) == fusion
    Fusion({"model": 1.0}, 3, 1).save(tmp_path)
    with pytest.raises(ValueError, match="fusion.json weighs model, not what this version does; build it again"):
        Fusion.load(tmp_path)


def simulated(users: int, seed: int) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Users who choose with p ∝ exp(w · x)."""
    rng = np.random.default_rng(seed)
    weights = np.append(0.9 * rng.normal(size=len(FEATURES) - 1), 0.0)
    given, chosen = [], []
    for _ in range(users):
        x = rng.normal(size=(rng.integers(2, 12), len(FEATURES))) * np.linspace(0.5, 3, len(FEATURES))
        x[:, -1] = 7.0  # never differs
        shares = np.exp(x @ weights)
        given.append(x)
        chosen.append(int(rng.choice(len(x), p=shares / shares.sum())))
    return weights, given, chosen


def test_the_weights_of_simulated_choices_are_found():
    weights, given, chosen = simulated(20_000, 0)
    fusion = Fusion.learn([*given, given[0]], [*chosen, -1])
    assert (fusion.users, fusion.without) == (20_000, 1)
    assert [fusion.weights[name] for name in FEATURES] == pytest.approx(weights.tolist(), abs=0.12)
    assert fusion.weights[FEATURES[-1]] == 0


def test_the_weights_are_the_optimum_of_the_formula():
    _, given, chosen = simulated(50, 1)
    fusion = Fusion.learn(given, chosen)
    weights = torch.tensor([fusion.weights[name] for name in FEATURES], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(np.concatenate(given).std(axis=0))
    losses = [
        torch.nn.functional.cross_entropy((torch.tensor(x) @ weights)[None], torch.tensor([place]))
        for x, place in zip(given, chosen, strict=True)
    ]
    (torch.stack(losses).mean() + 1e-3 * ((weights * scale) ** 2).sum()).backward()
    assert weights.grad is not None
    assert (weights.grad / scale.clamp(min=1)).abs().max() < 1e-4


def test_nobody_to_learn_from_is_an_error():
    with pytest.raises(ValueError, match="of 2 validation users none has the next item"):
        Fusion.learn([np.ones((2, len(FEATURES)))] * 2, [-1, -1])


@pytest.fixture(scope="module")
def world(small: SimpleNamespace) -> SimpleNamespace:
    users, items = load_users(small.texts, ["home"]), load_catalogue(small.texts, "home")
    network, tokenizer, cache, _ = load_model(small.base, small.tokens, small.texts)
    search, targets = Search(Index.build(items.group_texts), 1), cache.targets(items.first)
    sampling = GenerateConfig(trie="beam", samples=4, threads=1)
    return SimpleNamespace(
        users=users,
        items=items,
        cache=cache,
        search=search,
        reader=Reader(network, targets, 1e9),
        write=Generator(network, tokenizer, cache.end, sampling, targets).generate_all,
    )


def learn(world: SimpleNamespace, users: Users, number: int = 100, asked: frozenset[str] = frozenset()) -> Fusion:
    config = RetrieveConfig(rerank=20, fusion_users=number, threads=1)
    return learn_fusion(users, world.items, world.search, config, world.reader, world.cache, world.write, asked)


def test_test_items_teach_nothing(world: SimpleNamespace):
    """Other test items, and other items of users without a part in training, change no weight."""
    users = world.users
    assert (users.test_at > users.valid_at).any()
    other = [items.copy() for items in users.items]
    for items, at in zip(other, users.test_at.tolist(), strict=True):
        if at >= 0:
            items[at:] = world.items.items[0]
    changed = Users(users.user_id, users.domain, other, users.train_end, users.valid_at, users.test_at)
    assert learn(world, changed) == learn(world, users)
    counted = countable(users, "valid")
    assert all(len(items) <= at for items, at in zip(counted, users.valid_at.tolist(), strict=True) if at >= 0)


def test_the_item_that_is_learned_from_is_not_counted(world: SimpleNamespace):
    """Each user's validation item follows his last training item nowhere else, so no count can make it a candidate.

    Only the first user, to whom the model writes it, has it among his candidates.
    """
    codes = world.items.items.astype(np.int32)
    assert len(codes) >= 12
    rows = [codes[[at, (at + 1) % 12, (at + 6) % 12]] for at in range(0, 12, 2)]
    ends = np.full(len(rows), 2)
    users = Users([f"u{at}" for at in range(len(rows))], np.full(len(rows), "home"), rows, ends, ends, ends + 1)
    config = RetrieveConfig(rerank=1, fusion_users=100, threads=1)
    prompts: list[Prompt] = []

    def told(asked: Sequence[Prompt]) -> Iterator[list[Generation]]:
        prompts.extend(asked)
        texts = [[Generation(world.items.text(int(rows[0][2])), 0.0, 1, True)] if p.user == "u0" else [] for p in asked]
        return iter(texts)

    fusion = learn_fusion(users, world.items, world.search, config, world.reader, world.cache, told)
    assert (fusion.users, fusion.without) == (1, len(rows) - 1)
    assert [p.ids.tolist() for p in prompts] == [world.cache.history(row[:2])[0].tolist() for row in rows]


def test_who_is_asked_about_teaches_nothing(world: SimpleNamespace):
    able = [user for user, at in zip(world.users.user_id, world.users.valid_at.tolist(), strict=True) if at >= 0]
    rest = learn(world, world.users, asked=frozenset(able[:5]))
    assert rest.users + rest.without == len(able) - 5
    with pytest.raises(ValueError, match="none is left"):
        learn(world, world.users, asked=frozenset(able))


def test_what_the_model_writes_is_among_the_candidates(world: SimpleNamespace):
    """Who is told the next item by the model has it among a single candidate of each source."""
    config, users = RetrieveConfig(rerank=1, fusion_users=100, threads=1), world.users
    ends = zip(users.user_id, users.items, users.valid_at.tolist(), strict=True)
    following = {user: world.items.text(int(items[at])) for user, items, at in ends if at >= 0}

    def told(prompts: Sequence[Prompt]) -> Iterator[list[Generation]]:
        return ([Generation(following[prompt.user], 0.0, 1, True)] for prompt in prompts)

    def silent(prompts: Sequence[Prompt]) -> Iterator[list[Generation]]:
        return ([] for _ in prompts)

    given = (users, world.items, world.search, config, world.reader, world.cache)
    assert learn_fusion(*given, told).without == 0 < learn_fusion(*given, silent).without


def test_a_sample_of_users(world: SimpleNamespace):
    few, again = learn(world, world.users, 7), learn(world, world.users, 7)
    assert few == again
    assert few.users + few.without == 7
