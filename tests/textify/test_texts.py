"""The texts of the paper, to the letter."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from calrec.textify.texts import attribute, item_text, prompt

GOLDEN = Path(__file__).parents[1] / "golden" / "prompt.txt"
ALL = ("title", "category", "brand", "price")
TEA = {"title": "Green tea", "category": "Drinks", "brand": "", "price": "2.50"}


def test_item_text_names_every_attribute_and_says_unknown():
    assert item_text(TEA, ALL) == "Title: Green tea. Category: Drinks. Brand: Unknown. Price: 2.50."
    assert item_text(TEA, ("brand", "title")) == "Brand: Unknown. Title: Green tea."


def test_the_prompt_is_the_golden_one():
    cup = {"title": "Cup", "category": "Kitchen", "brand": "Acme", "price": ""}
    assert prompt([item_text(TEA, ALL), item_text(cup, ALL)]) == GOLDEN.read_text().rstrip("\n")


def test_an_empty_history_asks_for_the_first_item():
    assert prompt([]).endswith("The first item bought is as follows.")


VALUE = st.text("ab .:-é1", max_size=12).map(str.strip)


@given(st.fixed_dictionaries(dict.fromkeys(ALL, VALUE)), st.permutations(ALL), st.integers(1, 4))
def test_an_attribute_is_read_back_from_the_text(item: dict[str, str], order: list[str], many: int):
    names = order[:many]
    assert {name: attribute([item_text(item, names)], name, names)[0] for name in names} == {n: item[n] for n in names}


def test_a_label_in_a_title_is_not_the_attribute():
    guide = {"title": "Deals. Price: 3. Brand: None", "category": "", "brand": "Acme", "price": "9.00"}
    texts = [item_text(guide, ALL), item_text(TEA, ALL)]
    assert attribute(texts, "price", ALL) == ["9.00", "2.50"]
    assert attribute(texts, "brand", ALL) == ["Acme", ""]
    assert attribute(texts, "title", ALL) == ["Deals. Price: 3. Brand: None", "Green tea"]
