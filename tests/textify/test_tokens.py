"""Token ids of units, prompts assembled from them, and whole prompts where units are not exact."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec import artifacts
from calrec.arrays.ragged import Ragged
from calrec.config import GenerateConfig, ModelConfig
from calrec.finetune.batches import Row, collate
from calrec.generate.step import generate
from calrec.model import checkpoint
from calrec.model.loading import load_model, load_users
from calrec.model.scratch import train_tokenizer
from calrec.model.step import base_model
from calrec.textify.encoding import FORMS, TextPrompts, choose_form, encode_items, encode_phrases
from calrec.textify.texts import NEXT, OPENING, item_text, prompt
from calrec.textify.tokens import TokenCache
from tests.conftest import shared

# --- assembly ---------------------------------------------------------------------------------------------------


def cache_of(lengths: list[int], max_tokens: int, opening: int = 2, following: int = 1) -> TokenCache:
    """Item i is `lengths[i]` times the token 10 + i, the opening is 1, 1, …, the next-item phrase 2, 2, …."""
    items = [np.full(n, 10 + i, np.int32) for i, n in enumerate(lengths)]
    phrases = (np.full(opening, 1, np.int32), np.full(following, 2, np.int32))
    return TokenCache(TokenCache.units_of(*phrases, items), end=0, max_tokens=max_tokens)


def item_by_item(cache: TokenCache, lengths: list[int], history: list[int]) -> tuple[list[int], list[int], int]:
    """The reference: ids, the last token of each kept item, kept items."""
    opening, following = cache.opening.tolist(), cache.following.tolist()
    room, kept = cache.max_tokens - len(opening), 0
    for item in reversed(history):
        room -= lengths[item] + len(following)
        if room < 0:
            break
        kept += 1
    ids, ends = opening, []
    for item in history[len(history) - kept :]:
        ids = ids + [10 + item] * lengths[item]
        ends.append(len(ids) - 1)
        ids = ids + following
    return ids, ends, kept


@st.composite
def assemblies(draw: Callable[..., Any]) -> tuple[TokenCache, list[int], list[list[int]]]:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    cache = cache_of(lengths, draw(st.integers(1, 40)), draw(st.integers(1, 5)), draw(st.integers(0, 4)))
    code = st.integers(0, len(lengths) - 1)
    return cache, lengths, draw(st.lists(st.lists(code, max_size=10), max_size=8))


@given(assemblies())
def test_prompts_equal_those_made_item_by_item(case: tuple[TokenCache, list[int], list[list[int]]]):
    cache, lengths, histories = case
    made = cache.assemble(histories)
    ends_at = np.cumsum([0, *made.kept])
    assert len(made) == len(histories) == len(made.rows())
    for i, history in enumerate(histories):
        ids, ends, kept = item_by_item(cache, lengths, history)
        assert made.rows()[i].tolist() == ids and made.kept[i] == kept
        assert (made.ends[ends_at[i] : ends_at[i + 1]] - made.offsets[i]).tolist() == ends
        one = cache.history(history)
        assert (one[0].tolist(), one[1].tolist(), one[2]) == (ids, ends, kept)
    assert made.inside_items().tolist() == (made.ids >= 10).tolist()
    assert (made.ids[made.starts] == made.ids[made.ends]).all()
    kept_by_fit, tokens = cache.fit(Ragged.of(histories))
    assert (kept_by_fit.tolist(), tokens.tolist()) == (made.kept.tolist(), made.lengths.tolist())


@given(assemblies())
def test_a_long_history_loses_whole_oldest_items(case: tuple[TokenCache, list[int], list[list[int]]]):
    cache, lengths, histories = case
    made = cache.assemble(histories)
    for history, kept, tokens in zip(histories, made.kept.tolist(), made.lengths.tolist(), strict=True):
        assert tokens <= max(cache.max_tokens, len(cache.opening))
        if kept < len(history):  # one more would not have fitted
            assert tokens + lengths[history[-kept - 1]] + len(cache.following) > cache.max_tokens


def test_histories_may_be_lists_arrays_or_one_array_with_offsets():
    cache = cache_of([1, 2, 3], 99)
    lists = [[2, 0], [], [1]]
    flat = Ragged(np.array([2, 0, 1], np.int32), np.array([0, 2, 2, 3]))
    expected = cache.assemble(lists).ids.tolist()
    assert cache.assemble([np.array(row, np.int32) for row in lists]).ids.tolist() == expected
    assert cache.assemble(flat).ids.tolist() == expected
    assert cache.assemble(flat).ids.dtype == np.int32


def test_an_item_longer_than_the_room_leaves_the_opening_alone():
    made = cache_of([1, 50], max_tokens=20).assemble([[0, 1], [1, 0]])
    assert [row.tolist() for row in made.rows()] == [[1, 1], [1, 1, 10, 2]]
    assert made.kept.tolist() == [0, 1]


def test_targets_end_with_the_end_token():
    cache = cache_of([3, 1], 99)
    assert cache.target(0).tolist() == [10, 10, 10, 0]
    assert [row.tolist() for row in cache.targets([1, 0]).rows()] == [[11, 0], [10, 10, 10, 0]]
    assert cache.units[0].tolist() == [10, 10, 10, 2]  # the cache itself is not written to


# --- tokenizers -------------------------------------------------------------------------------------------------

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LIMIT = 24


def titles(n: int) -> list[str]:
    """Item texts as real ones are: odd punctuation, numbers, other scripts, some too long."""
    rng = np.random.default_rng(0)
    words = [
        "Lamp",
        "for",
        "men's",
        "(Pack of 2)",
        "12.5oz",
        "日本茶",
        "café",
        "-",
        "USB-C",
        "🎈🎈",
        "&",
        "x1000",
        "naïve",
        '4"',
    ]
    texts = []
    for _ in range(n):
        drawn = rng.choice(words, size=rng.integers(1, 14))
        row = {"title": " ".join(drawn), "category": str(drawn[-1]), "brand": "", "price": f"{rng.integers(99)}.5"}
        texts.append(item_text(row, ("title", "category", "brand", "price")))
    return texts


def bpe(kind: str, vocabulary: int = 900) -> Any:
    """A tokenizer of the given family, learned from prompts."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
    pieces = kind in ("metaspace", "normalised")
    tokenizer = Tokenizer(models.BPE(byte_fallback=pieces, unk_token="<unk>" if pieces else None))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = titles(400)
    if kind == "gpt2":
        tokenizer.pre_tokenizer = byte_level
    elif kind in ("llama3", "behind"):
        how = ("isolated", LLAMA_3) if kind == "llama3" else ("merged_with_previous", " ")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(how[1]), how[0]), byte_level]
        )  # fmt: skip
    elif kind == "crossing":  # no word borders at all, so merges cross spaces
        tokenizer.pre_tokenizer = byte_level
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:  # Llama 2: the space in front is put there by the normalizer, always
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    if pieces:
        alphabet, texts = [], [word for text in [*texts, OPENING, NEXT] for word in text.split()]
    else:
        texts = [prompt(texts[i : i + 3]) for i in range(0, len(texts), 3)]
    special = ["<unk>", "<end>", *(f"<0x{i:02X}>" for i in range(256))] if pieces else ["<unk>", "<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def caches(tokenizer: Any, form: str, max_tokens: int = 10**6) -> tuple[TokenCache, TextPrompts]:
    items = encode_items(titles(100), tokenizer, FORMS[form], LIMIT)
    units = TokenCache.units_of(*encode_phrases(tokenizer, FORMS[form]), items.ids)
    end = tokenizer.eos_token_id
    return (
        TokenCache(units, end, max_tokens),
        TextPrompts(units, end, max_tokens, items.texts, FORMS[form], tokenizer),
    )


HISTORIES = [[0], [], [3, 1, 2], list(range(20, 60)), [7] * 5]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("gpt2", "space before"),
        ("llama3", "space before"),
        ("metaspace", "space before"),
        ("normalised", "bare"),
        ("behind", "space after"),
    ],
)
def test_the_exact_form_of_units_is_found(kind: str, form: str):
    tokenizer = bpe(kind)
    assert choose_form(titles(400), tokenizer, LIMIT) == (form, 1.0)
    assembled, whole = (cache.assemble(HISTORIES) for cache in caches(tokenizer, form))
    for name in ("ids", "offsets", "kept", "starts", "ends"):
        assert getattr(assembled, name).tolist() == getattr(whole, name).tolist(), name


def test_whole_texts_are_tokenised_where_no_form_is_exact():
    tokenizer = bpe("crossing")
    form, exact = choose_form(titles(400), tokenizer, LIMIT)
    assert exact < 0.5
    assembled, whole = caches(tokenizer, form)
    made = whole.assemble(HISTORIES)
    texts = encode_items(titles(100), tokenizer, FORMS[form], LIMIT).texts
    for history, row in zip(HISTORIES, made.rows(), strict=True):
        text = FORMS[form].prompt([texts[i] for i in history])
        assert row.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert assembled.assemble(HISTORIES).ids.tolist() != made.ids.tolist()
    shown = [tokenizer.decode(made.ids[a : b + 1]) for a, b in zip(made.starts, made.ends, strict=True)]
    asked = [texts[item] for history in HISTORIES for item in history]
    assert all(text in more for text, more in zip(asked, shown, strict=True))
    assert all(len(more) <= len(text) + 30 for text, more in zip(asked, shown, strict=True))  # two tokens of 16 letters
    assert any(len(more) > len(text) + 1 for text, more in zip(asked, shown, strict=True))


@pytest.mark.parametrize("max_tokens", [12, 60, 200])
def test_whole_texts_lose_oldest_items_until_they_fit(max_tokens: int):
    tokenizer = bpe("crossing")
    _, whole = caches(tokenizer, "space before", max_tokens)
    made = whole.assemble(HISTORIES)
    at_most, _ = whole.fit(Ragged.of(HISTORIES))
    assert (made.kept <= at_most).all() and len(made.starts) == made.kept.sum()
    assert (made.lengths <= np.maximum(max_tokens, len(whole.assemble([[]]).ids))).all()
    assert len(whole.assemble([])) == 0


def test_the_start_token_comes_first_in_both_ways_of_assembly():
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe("gpt2")
    tokenizer.bos_token = "<unk>"
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<unk> $0", special_tokens=[("<unk>", start)]
    )
    assert choose_form(titles(100), tokenizer, LIMIT) == ("space before", 1.0)
    assembled, whole = (cache.assemble(HISTORIES) for cache in caches(tokenizer, "space before"))
    assert assembled.ids[0] == start and assembled.ids.tolist() == whole.ids.tolist()
    assert assembled.ends.tolist() == whole.ends.tolist()


@pytest.mark.parametrize("limit", [1, 2, 5, 9, 15])
@pytest.mark.parametrize("kind", ["gpt2", "llama3", "metaspace", "crossing"])
def test_a_cut_item_is_the_beginning_of_its_text(kind: str, limit: int):
    tokenizer, texts = bpe(kind), titles(100)
    items = encode_items(texts, tokenizer, FORMS["space before"], limit)
    full = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    assert items.cut == sum(len(ids) > limit for ids in full) > 0
    for text, cut, ids, whole in zip(texts, items.texts, items.ids, full, strict=True):
        assert len(ids) <= limit and text.startswith(cut)
        assert ids.tolist() == tokenizer(" " + cut, add_special_tokens=False)["input_ids"]
        if len(whole) <= limit:
            assert ids.tolist() == whole
        elif cut and kind != "crossing":
            assert ids.tolist() == whole[: len(ids)]


def test_a_cut_never_ends_inside_a_character():
    tokenizer = train_tokenizer(titles(10), 400)
    ids = [encode_items(["Title: 日本茶"], tokenizer, FORMS["space before"], n).ids[0] for n in range(3, 12)]
    assert not any("\ufffd" in tokenizer.decode(row) for row in ids)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ValueError, match="SimpleNamespace is not a fast tokenizer"):
        choose_form(["a"], SimpleNamespace(is_fast=False), 5)


def test_a_special_tokens_name_in_a_title_is_text():
    tokenizer = train_tokenizer(["Title: lamp.", "Title: <|end of text|> lamp."], 300)
    end = tokenizer.eos_token
    (ids,) = encode_items([f"Title: a {end} lamp."], tokenizer, FORMS["space before"], 64).ids
    assert tokenizer.eos_token_id not in ids.tolist()
    assert tokenizer.decode(ids.tolist(), skip_special_tokens=True) == f" Title: a {end} lamp."
    (opening, following) = encode_phrases(tokenizer, FORMS["space before"])
    assert len(opening) == len(following) == 1  # the template's phrases are still tokens


# --- real models ------------------------------------------------------------------------------------------------


def test_assembled_prompts_equal_tokenised_texts(small: SimpleNamespace):
    _, tokenizer, cache, _ = load_model(small.base, small.tokens, small.texts)
    texts = artifacts.read_table(small.texts, "items.parquet", "texts")["text"].to_pylist()
    for history in ([0], [3, 1, 2], []):
        whole = tokenizer(prompt([texts[i] for i in history]), add_special_tokens=False)["input_ids"]
        assert cache.history(history)[0].tolist() == whole


def test_ids_stay_in_the_file_until_they_are_read(small: SimpleNamespace):
    cache = load_model(small.base, small.tokens, small.texts)[2]
    for array in (cache.units.flat, cache.units.offsets):
        assert isinstance(array.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert (cache.units.flat.dtype, cache.units.offsets.dtype) == (np.int32, np.int64)
    users = load_users(small.texts)
    assert (cache.assemble(users.items).kept > 0).all()


def test_assembled_prompts_of_a_sentencepiece_checkpoint_are_exact():
    _, tokenizer = checkpoint.load(shared("models", "aidreams-260k"))
    texts = [f"Title: Thing {i}. Price: {i}.50." for i in range(30)]
    form, exact = choose_form(texts, tokenizer, 64)
    items = encode_items(texts, tokenizer, FORMS[form], 64)
    cache = TokenCache(TokenCache.units_of(*encode_phrases(tokenizer, FORMS[form]), items.ids), 0, 999)
    assert exact == 1.0
    assert cache.history([3])[0].tolist() == tokenizer(prompt([texts[3]]))["input_ids"]


def test_a_model_whose_tokenizer_crosses_spaces_is_trained_and_sampled_on_whole_texts(
    small: SimpleNamespace, tmp_path: Path
):
    awkward = tmp_path / "awkward"
    network, _ = checkpoint.load(small.base)
    tokenizer = bpe("crossing", vocabulary=network.config.vocab_size)
    checkpoint.save(network, tokenizer, awkward)
    folders = [small.texts, tmp_path / "base", tmp_path / "tokens"]
    _, made = base_model(*folders, ModelConfig(name=str(awkward)))
    assert made.config["assembly"] == "text" and made.counts["assembled_exact_share"] < 1
    assert "prompts are tokenised as whole texts" in made.notes[0]
    _, _, cache, _ = load_model(tmp_path / "base", tmp_path / "tokens", small.texts)
    texts = artifacts.read_table(small.texts, "items.parquet", "texts")["text"].to_pylist()
    assert isinstance(cache, TextPrompts) and all(text.startswith(cache.texts[i]) for i, text in enumerate(texts))
    rows = [Row([0, 3], 1), Row([], 2)]
    batch = collate(rows, cache, np.zeros(len(texts), np.int32), "all")
    for b, row in enumerate(rows):
        whole = tokenizer(FORMS[made.config["form"]].prompt([cache.texts[i] for i in row.history]))["input_ids"]
        assert batch.ids_T[batch.offsets[b] :][: batch.prompt_B[b]].tolist() == whole
    labels = dict(zip(batch.predict_N.tolist(), batch.label_N.tolist(), strict=True))
    assert [labels[end] for end in cache.assemble([[0, 3]]).ends.tolist()] == [cache.end] * 2
    options = GenerateConfig(samples=2, max_new_tokens=4, max_users=3, threads=1)
    generated = generate(small.texts, tmp_path / "tokens", tmp_path / "base", tmp_path / "g", "home", options)
    assert generated.counts["users"] == 3


def test_without_phrases_items_follow_each_other():
    """A prompt and a target, assembled, are the ids of their text; no phrase stands in it."""
    texts = ["Title: red lamp.", "Title: blue chair.", "Title: red chair with a lamp."]
    tokenizer = train_tokenizer(texts, 400)
    form = FORMS["space before"]
    assert choose_form(texts, tokenizer, 64, phrases=False) == ("space before", 1.0)
    items = encode_items(texts, tokenizer, form, 64)
    opening, following = encode_phrases(tokenizer, form, phrases=False)
    assert not len(following)
    cache = TokenCache(TokenCache.units_of(opening, following, items.ids), 0, 99)
    text = f"{OPENING} {texts[1]} {texts[2]}"
    assert prompt([texts[1], texts[2]], phrases=False) == text
    assert cache.history([1, 2])[0].tolist() == tokenizer(text)["input_ids"]
    for item, ids in enumerate(items.ids):
        assert cache.target(item).tolist() == [*ids.tolist(), 0]


def test_without_phrases_a_tokenizer_must_keep_items_apart():
    with pytest.raises(ValueError, match="text.phrases=false needs a tokenizer"):
        choose_form(titles(400), bpe("crossing"), LIMIT, phrases=False)
