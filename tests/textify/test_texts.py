"""The texts of the paper, to the letter."""

from pathlib import Path

from calrec.textify.texts import item_text, prompt

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
