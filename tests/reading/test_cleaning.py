"""Cleaning of attributes, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.reading.catalogue import clean_category
from calrec.reading.cleaning import clean_brand, clean_text, clean_title
from calrec.reading.prices import clean_price


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\n  b ", "a b"),
        ("Bath &amp; Body", "Bath & Body"),
        ("A&amp;lt;b&amp;gt;B", "A B"),
        ("<b>Bold</b> title", "Bold title"),
        ("<span class='a-size'>junk</span>", ""),
        ('<img src="x"/>', ""),
        ("tab\x00\x07bell", "tab bell"),
        ("zero\u200bwidth", "zero width"),
        ("क्\u200dष می\u200cخواهم 👨\u200d👩", "क्\u200dष می\u200cخواهم 👨\u200d👩"),
        ("\u200da\u200cb \u200d", "a b"),
        ("日本 é", "日本 é"),
        ("", ""),
    ],
)
def test_clean_text(raw: str, clean: str):
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("$25.00", "25.00"),
        ("$1,299.99", "1299.99"),
        ("$5.00 - $10.00", "5.00 - 10.00"),
        ("7", "7"),
        (".a-box-inner{background-color:#fff}", ""),
        ("\n ", ""),
        ("from $3", ""),
    ],
)
def test_clean_price(raw: str, clean: str):
    assert clean_price(raw) == clean


def test_clean_brand():
    assert clean_brand("by\n    \n    Microsoft") == "Microsoft"
    assert clean_brand("Bygone") == "Bygone"


@pytest.mark.parametrize(
    ("raw", "category", "clean"),
    [
        ("Industrial & Scientific />", "Industrial & Scientific", ""),
        (
            "RapidFix Adhesive, 25 mL,Boss Products />",
            "Industrial & Scientific",
            "RapidFix Adhesive, 25 mL,Boss Products",
        ),
        ("var aPageStart = (new Date()).getTime();", "Toys", ""),
        ("</span></span></span>", "Toys", ""),
        ("Bed {Queen}", "Home", "Bed {Queen}"),
        ("Multifunction tool <i>new</i>", "Tools", "Multifunction tool new"),
    ],
)
def test_clean_title(raw: str, category: str, clean: str):
    assert clean_title(raw, category) == clean


def test_a_category_that_says_it_has_none_is_missing():
    assert [clean_category(raw, "first") for raw in ("(no genres listed)", "unknown", "Drama &amp; War")] == [
        "",
        "",
        "Drama & War",
    ]


@given(st.text(max_size=60) | st.text("<>&;/{}:.#spanby $0123456789-,\n", max_size=60))
def test_whatever_comes_in_what_goes_out_is_one_clean_line(raw: str):
    for clean in (
        clean_text,
        clean_brand,
        clean_price,
        lambda t: clean_category(t, "last", "|"),
        lambda t: clean_title(t, ""),
    ):
        once = clean(raw)
        assert once == once.strip()
        assert "\n" not in once and "\x00" not in once
        once.encode()
