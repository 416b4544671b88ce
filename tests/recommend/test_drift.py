"""How far a small shop moved: by hand, and against another library."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from calrec import artifacts
from calrec.config import ModelConfig, RetrieveConfig
from calrec.model.step import base_model
from calrec.recommend.drift import PROFILE, drift, furthest, median, most_changed, profile, variation
from calrec.retrieve import stored
from tests.evaluate import world

# The shop before it had pots (d) and lamps (e, f).
BEFORE = {
    "u1": ["a", "b", "c", "a"],
    "u2": ["a", "c", "b"],
    "u3": ["a", "b", "b", "b"],
    "u4": ["a", "c", "b", "b", "a", "a"],
}


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("shops")
    before, now = world.texts(root / "before", BEFORE), world.texts(root / "now")
    base_model(before, root / "base", root / "tokens", ModelConfig(size="tiny", vocab_size=300))
    index = RetrieveConfig(k=3, threads=1)
    stored.build(before, root / "tokens", root / "base", "shop", root / "champion/index", index)
    (root / "champion" / PROFILE).write_text(json.dumps(profile(before, "shop")))
    return SimpleNamespace(root=root, champion=root / "champion", before=before, now=now)


def test_a_profile_counts_every_event(shops: SimpleNamespace):
    assert profile(shops.before, "shop") == {
        "texts": artifacts.read_manifest(shops.before).digest,
        "users": 4,
        "events": 17,
        "items": 3,
        "events_of_category": {"Cups": 10, "Tea": 7},
        "users_of_length": {"3": 1, "4": 2, "6": 1},
    }


def test_drift_by_hand(shops: SimpleNamespace):
    """d, e, f are new. An event has 6 words, of a pot 8 with 4 new ones, of a lamp 4 with 2 new ones."""
    found = drift(shops.champion, shops.now, "shop", "test")
    assert found.figures == pytest.approx(
        {
            "new_items_share": 3 / 6,
            "new_items_event_share": 4 / 22,
            "new_items_target_share": 2 / 6,
            "new_words_share": (2 * 4 + 2 * 2) / (18 * 6 + 2 * 8 + 2 * 4),
            "category_shift": 2 / 22 + 2 / 22,
            "length_shift": 1 / 4,  # nobody has 6 events any more, up to 4 have all
        }
    )
    assert found.data == artifacts.read_manifest(shops.before).digest
    assert found.sizes == {"users": (4, 6), "events": (17, 22), "items": (3, 6), "median_length": (4.0, 4.0)}
    assert [name for name, *_ in found.moved] == ["Cups", "Lamps", "Pots", "Tea"]
    assert found.moved[0][1:] == pytest.approx((10 / 17, 9 / 22))


def test_the_newest_events_are_those_of_the_split(shops: SimpleNamespace):
    assert drift(shops.champion, shops.now, "shop", "valid").figures["new_items_target_share"] == pytest.approx(1 / 6)


def test_the_same_data_have_not_moved(shops: SimpleNamespace):
    found = drift(shops.champion, shops.before, "shop", "test")
    assert len(found.figures) == 6 and set(found.figures.values()) == {0.0} and found.moved == []


def test_a_folder_of_before_profiles_tells_of_items_and_words_alone(shops: SimpleNamespace, tmp_path: Path):
    (tmp_path / "index").symlink_to(shops.champion / "index")
    found = drift(tmp_path, shops.now, "shop", "test")
    whole = drift(shops.champion, shops.now, "shop", "test").figures
    assert found.figures == {name: whole[name] for name in whole if name.startswith("new_")}
    assert found.sizes == {} and list(found.moved) == []


@pytest.mark.parametrize("text", ["[]", "{}", '{"users_of_length": {}}', "nothing"])
def test_what_is_no_profile_is_refused(shops: SimpleNamespace, tmp_path: Path, text: str):
    (tmp_path / "index").symlink_to(shops.champion / "index")
    (tmp_path / PROFILE).write_text(text)
    with pytest.raises(ValueError, match="not a profile of data|Expecting value"):
        drift(tmp_path, shops.now, "shop", "test")


def test_an_unknown_category_is_refused(shops: SimpleNamespace):
    with pytest.raises(ValueError, match="unknown category 'books'.*shop"):
        profile(shops.now, "books")


def test_lengths_are_compared_as_kolmogorov_and_smirnov_do():
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples = [rng.integers(3, 3 + rng.integers(1, 30), rng.integers(1, 50)) for _ in range(2)]
        counts = [{int(n): int((one == n).sum()) for n in one} for one in samples]
        assert furthest(*counts) == pytest.approx(stats.ks_2samp(*samples).statistic)
        assert [median(one) for one in counts] == [np.median(one) for one in samples]


def test_mixes_are_compared_by_half_of_their_city_block_distance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        before, after = rng.dirichlet(np.ones(8), 2)
        mixes = [dict(zip("abcdefgh", shares.tolist(), strict=True)) for shares in (before, after)]
        assert variation(*mixes) == pytest.approx(distance.cityblock(before, after) / 2)
    assert variation({"a": 1.0}, {"b": 1.0}) == 1.0


def test_what_moved_most_comes_first_and_what_stayed_is_not_named():
    before = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.1, "e": 0.1, "f": 0.2}
    after = {**before, "a": 0.1, "b": 0.26, "c": 0.2, "z": 0.05, "d": 0.08, "e": 0.11}
    assert [name for name, *_ in most_changed(before, after)] == ["a", "c", "b", "z", "d"]
    assert most_changed(before, after)[3] == ("z", 0.0, 0.05)
    assert most_changed(before, before) == []
