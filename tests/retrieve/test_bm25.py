"""The BM25 index against the formula and another library; the two engines bit by bit; top lists against brute force."""

import importlib.util
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.retrieve import bm25, kernels, search
from calrec.retrieve.bm25 import FILES, Index, same_words
from calrec.retrieve.search import Matches, Search
from calrec.textify.texts import LABELS
from calrec.textify.words import words

LETTERS = "abcdefgh"
texts_of_letters = st.lists(st.lists(st.sampled_from(LETTERS), max_size=6).map(" ".join), min_size=1, max_size=12)


def with_labels(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def catalogue(size: int, seed: int = 0, vocabulary: int = 40) -> list[str]:
    """Short texts of few words, so that many are equal and many scores are ties."""
    rng = np.random.default_rng(seed)
    drawn = vocabulary ** rng.random((size, 7))  # word w1 is the most frequent
    lengths = rng.integers(0, 4, size)
    return [
        f"Title: {' '.join(f'w{int(x)}' for x in row[: n + 1])}. Price: {int(row[6]) // 10}."
        for row, n in zip(drawn, lengths, strict=True)
    ]


def by_hand(documents: list[list[str]], k1: float, b: float) -> dict[str, np.ndarray]:
    """Weight of each word for each document in float64, one number at a time."""
    mean, n = sum(map(len, documents)) / len(documents), len(documents)
    df = Counter(word for document in documents for word in set(document))
    weights = {word: np.zeros(n) for word in sorted(df)}
    for at, document in enumerate(documents):
        for word, tf in Counter(document).items():
            idf = math.log(1 + (n - df[word] + 0.5) / (df[word] + 0.5))
            weights[word][at] = idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
    return weights


def assert_equal(a: Matches, b: Matches) -> None:
    for name in ("groups", "scores", "highest", "lowest"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and strides, and dense rows, in a small catalogue."""
    monkeypatch.setattr(kernels, "BLOCK", 700)
    monkeypatch.setattr(bm25, "_DENSE_SIZE", 1)


# --- the index ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    texts_of_letters,
    st.lists(st.sampled_from([*LETTERS, "unknown"]), max_size=9),
    st.sampled_from([0.0, 0.9, 1.5]),
    st.sampled_from([0.0, 0.75, 1.0]),
)
def test_scores_are_the_formula(texts: list[str], query: list[str], k1: float, b: float):
    if not any(map(words, texts)):
        with pytest.raises(ValueError, match="no text of the catalogue has a single word"):
            Index.build(texts, k1, b)
        return
    weights = by_hand([words(text) for text in texts], k1, b)
    expected = sum((weights[word] for word in query if word in weights), np.zeros(len(texts)))
    np.testing.assert_allclose(Index.build(texts, k1, b).scores(" ".join(query)), expected, rtol=1e-5, atol=1e-12)


def test_scores_are_those_of_the_bm25s_library():
    import bm25s

    texts = catalogue(500)
    peer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    peer.index([words(text) for text in texts], show_progress=False)
    index = Index.build(texts)
    for query in [*texts[:50], "w1 w1 w1 w39"]:
        known = [word for word in words(query) if word in peer.vocab_dict]
        np.testing.assert_allclose(index.scores(query), peer.get_scores(known), rtol=1e-5, atol=1e-6)


PIECES = [*LABELS, "Tit", "le:", ":", "Σ", "ΑΣ", "ς", "İ", "ß", "\u0301", "\n", "\x00", "_", "日本", "4.50", bm25._END]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=6).map("".join), max_size=7))
@pytest.mark.parametrize("tokenise", [words, with_labels])
def test_words_of_many_texts_are_the_words_of_each(tokenise: bm25.Tokenise, texts: list[str]):
    codes, lengths, distinct = bm25._coded(texts, tokenise)
    found = distinct.to_pylist()
    assert found == sorted({word for text in texts for word in tokenise(text)})
    rows = np.split(codes, np.cumsum(lengths)[:-1]) if texts else []
    assert [[found[code] for code in row] for row in rows] == [tokenise(text) for text in texts]


def test_words_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch):
    texts = [*catalogue(50), bm25._END, ""]
    whole = Index.build(texts)
    monkeypatch.setattr(bm25, "_CHUNK", 7)
    parts = Index.build(texts)
    assert whole.vocabulary.equals(parts.vocabulary)
    assert all(np.array_equal(getattr(whole, a), getattr(parts, a)) for a in ("offsets", "groups", "weights"))


def test_field_labels_count_only_when_asked_for():
    texts = catalogue(20)
    assert "title" not in Index.build(texts).term_of
    labelled = Index.build(texts, tokenise=with_labels)
    assert (labelled.scores("Title: nothing.") > 0).all() and (Search(labelled).top(["Title:"], 1).lowest > 0).all()


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_a_saved_index_is_mapped_and_gives_the_same(tmp_path: Path, engine: str):
    texts = catalogue(300)
    index = Index.build(texts)
    index.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    loaded = Index.load(tmp_path)
    assert isinstance(loaded.weights.base, np.memmap) and not loaded.weights.flags["W"]
    assert_equal(Search(loaded, engine=engine).top(texts, 7), Search(index, engine=engine).top(texts, 7))


CHINESE = [f"{brand}{kind}{colour}" for brand in ("小米", "华为", "格力") for kind in ("无线耳机", "智能手表")
           for colour in ("黑色", "白色", "蓝色")]  # fmt: skip


def test_a_saved_index_knows_the_words_that_its_catalogue_holds_together(tmp_path: Path):
    index = Index.build(CHINESE)
    index.save(tmp_path)
    loaded = Index.load(tmp_path)
    assert set(index.term_of) == {"小米", "华为", "格力", "无线耳机", "智能手表", "黑色", "白色", "蓝色"}
    assert loaded.tokenise("小米智能手表") == ["小米", "智能手表"]
    queries = ["华为耳机", "红色手表", *CHINESE]
    assert_equal(Search(loaded).top(queries, 5), Search(index).top(queries, 5))


def test_an_index_of_other_words_is_told_from_one_that_they_agree_with(tmp_path: Path):
    Index.build(CHINESE).save(tmp_path)
    assert same_words(tmp_path, CHINESE)
    (tmp_path / "bm25.json").write_text('{"size": 18}')  # as it was before it said so
    assert not same_words(tmp_path, CHINESE) and same_words(tmp_path, ["red cup"])


def test_what_part_of_a_text_is_known():
    found = Search(Index.build(["red cup", "blue cup"])).top(["red cup", "cup of tea", "tea", ""], 1)
    assert found.known.tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_the_same_texts_give_the_same_files_and_mixed_files_are_refused(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        Index.build(catalogue(200, seed=name == "c")).save(tmp_path / name)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in FILES)
    (tmp_path / "a/weights.npy").write_bytes((tmp_path / "c/weights.npy").read_bytes())
    with pytest.raises(ValueError, match="do not belong together; build it again"):
        Index.load(tmp_path / "a")


# --- the search ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tokenise", [words, with_labels])
@pytest.mark.parametrize("size", [1, 2, 513, 2900])
def test_the_engines_agree_bit_by_bit(size: int, tokenise: bm25.Tokenise):
    texts = catalogue(size)
    index = Index.build(texts, tokenise=tokenise)
    assert size < 500 or (index.dense[0] >= 0).any()
    rng = np.random.default_rng(1)
    queries = [
        *texts[:200],
        *texts[:3],
        "",
        "unknown",
        "日本 茶",
        "w1 " * 5,
        "w1 w1 w7 w7 w7 w30 w30 w30 w30 w30",
        " ".join(f"w{int(40**x)}" for x in rng.random(5000)),
        " ".join(texts),
    ]
    masks = [None, np.ones(size, bool), np.zeros(size, bool), rng.random(size) < 0.5, rng.random(size) < 0.004]
    for depth in (1, 10, size + 5):
        plain = Search(index, 1, "numpy").top(queries, depth)
        assert plain.groups.shape == (len(queries), min(depth, size))
        for mask in masks:
            numba, numpy = (Search(index, 2, engine).top(queries, depth, mask) for engine in ("numba", "numpy"))
            assert_equal(numba, numpy)
            assert np.array_equal(numba.highest, plain.highest) and np.array_equal(numba.lowest, plain.lowest)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tokenise", [words, with_labels])
def test_ten_thousand_top_lists_are_those_of_brute_force(tokenise: bm25.Tokenise):
    texts = catalogue(900, seed=2)
    assert len(set(texts)) < 800
    weights = by_hand([tokenise(text) for text in texts], 1.5, 0.75)
    weights = {word: row.astype(np.float32) for word, row in weights.items()}
    queries = [" ".join(texts[i] for i in row) for row in np.random.default_rng(5).integers(0, 900, (10_000, 2))]
    found, ties = Search(Index.build(texts, tokenise=tokenise), engine="numba").top(queries, 10), 0
    for row, query in enumerate(queries):
        scores = np.zeros(900, np.float32)
        for word, times in sorted(Counter(tokenise(query)).items()):
            scores += np.float32(times) * weights[word]
        best = np.argsort(-scores, kind="stable")[:10]
        assert found.groups[row].tolist() == best.tolist()
        assert found.scores[row].tolist() == scores[best].tolist()
        assert (found.highest[row], found.lowest[row]) == (scores.max(), scores.min())
        ties += len(set(scores[best].tolist())) < 10
    assert ties > len(queries) / 2


def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch):
    texts = catalogue(3000)
    index = Index.build(texts)
    expected = Search(index, 1, "numba").top(texts, 25)
    for block, threads in ((512, 1), (513, 2), (999, 5), (3000, 2), (1 << 20, 1)):
        monkeypatch.setattr(kernels, "BLOCK", block)
        assert_equal(Search(index, threads, "numba").top(texts, 25), expected)
    assert_equal(Search(index, 2, "numpy").top(texts[:300], 25), expected.take(slice(300)))


def test_dense_rows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    texts = catalogue(3000)
    dense, scattered = Index.build(texts), Index.build(texts)
    monkeypatch.setattr(bm25, "_DENSE_SIZE", 1)
    assert len(dense.dense[1]) > 0
    monkeypatch.setattr(bm25, "_DENSE_SIZE", 1 << 20)
    assert len(scattered.dense[1]) == 0
    assert_equal(Search(dense, engine="numba").top(texts, 10), Search(scattered, engine="numba").top(texts, 10))


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_a_text_without_a_known_word_lists_the_first_groups(engine: str):
    one = Search(Index.build(["a b", "a", "c", "a"]), engine=engine)
    found = one.top(["", "日本"], 3, np.array([False, True, True, False]))
    assert found.groups.tolist() == [[1, 2, -1]] * 2 and not found.scores.any()
    assert not found.highest.any() and not found.lowest.any()
    found = one.top(["c a"], 9)
    assert found.groups.tolist() == [[2, 1, 3, 0]] and found.lowest > 0  # each has a word of the text


def test_texts_with_the_same_known_words_are_searched_once(monkeypatch: pytest.MonkeyPatch):
    index = Index.build(["red cup", "blue cup", "tea"])
    one = Search(index, 1, "numpy")
    seen: list[int] = []
    monkeypatch.setattr(one, "_part", lambda first, last, bags, mask, found: seen.append(last - first))
    one.top(["red cup", "tea", "Cup, RED unknown!", "tea", "tea tea"], 2)
    assert seen == [3]
    assert_equal(
        Search(index).top(["tea", "red cup", "tea"], 2), Search(index).top(["tea", "red cup"], 2).take([0, 1, 0])
    )
    assert len(Search(index).top([], 2)) == 0


def test_without_numba_numpy_searches_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Search(Index.build(["a"])).engine == "numpy"
    assert "numba is not installed" in capsys.readouterr().out


def test_wrong_arguments_are_refused():
    index = Index.build(["a", "b"])
    with pytest.raises(ValueError, match="unknown BM25 engine 'bm25s'; one of: auto, numba, numpy"):
        Search(index, engine="bm25s")
    with pytest.raises(ValueError, match="threads must be >= 0, got -1"):
        Search(index, threads=-1)
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        Search(index).top(["a"], 0)
    with pytest.raises(ValueError, match=r"allowed has shape \(3,\), but the catalogue has 2 groups"):
        Search(index).top(["a"], 1, np.ones(3, bool))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=9), st.integers(1, 12), st.data())
def test_best_is_a_stable_sort(scores: list[float], depth: int, data: st.DataObject):
    among = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    expected = sorted(among.tolist(), key=lambda at: (-scores[at], at))[:depth]
    assert search._best(np.array(scores, np.float32), among, depth).tolist() == expected
