"""Lists and nothings that are written as text."""

import pytest

from calrec.reading.lists import entries, nothing, separator


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("['Home', 'Lamps']", ["Home", "Lamps"]),
        ("[['Home', 'Lamps'], ['Gifts']]", ["Home", "Lamps"]),
        ('["Home", "Kid\'s"]', ["Home", "Kid's"]),
        ("['Home' 'Lamps & more']", ["Home", "Lamps & more"]),
        ("array(['Home', 'Lamps'], dtype=object)", ["Home", "Lamps"]),
        ("('Home', 'Lamps')", ["Home", "Lamps"]),
        ("[Home, Lamps]", ["Home", "Lamps"]),
        ("{Home,Lamps}", ["Home", "Lamps"]),
        ("[{'id': 16, 'name': 'Animation'}, {'id': 35, 'name': 'Comedy'}]", ["Animation", "Comedy"]),
        ("['None', 'Lamps']", ["Lamps"]),
        ("[]", []),
        ("{'a': 1}", ["{'a': 1}"]),
        ("[18+] Games", ["[18+] Games"]),
        ("Home|Lamps", ["Home|Lamps"]),
    ],
)
def test_a_list_as_text_is_a_list(text: str, found: list[str]):
    assert entries(text) == found


@pytest.mark.parametrize(
    ("categories", "mark"),
    [
        (["Action|Comedy", "Drama", "Drama|War"], "|"),
        (["Home > Lamps", "Home > Chairs"], ">"),
        (["Home;Lamps", "Gifts"], ";"),
        (["Home", "Gifts; and more", "Cups", "Pans"], ""),
        (["Clothing, Shoes & Jewelry"], ""),
        (["['a|b']"], ""),
        (["", "nan"], ""),
    ],
)
def test_what_parts_entries_is_found_in_the_whole_column(categories: list[str], mark: str):
    assert separator(categories) == mark


def test_words_for_nothing():
    assert all(nothing(text) for text in ("", " ", "None", "none", "nan", "NaN", "NULL", "N/A", "NA", "-", "[]", "\\N"))
    assert not any(nothing(text) for text in ("Nando", "0", "no"))
    assert all(nothing(text, title=True) for text in ("None", "nan", "N/A", "-"))
    assert not any(nothing(text, title=True) for text in ("NA", "none", "Na"))
