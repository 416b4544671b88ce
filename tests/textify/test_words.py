"""Words of many scripts; what is expected was written down from knowledge of the scripts."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.textify.texts import LABELS
from calrec.textify.words import find_pairs, normal, words

ZWNJ, ZWJ, ZWSP, SHY = "\u200c", "\u200d", "\u200b", "\xad"


def before(text: str) -> list[str]:
    """What the words of a text were when only ASCII was thought of."""
    return re.findall(r"\w+", re.sub("|".join(LABELS), " ", text).lower())


PIECES = st.lists(st.sampled_from([*LABELS, "Tea", "\n", "_", " ", "1"])).map("".join)


@given(st.text(st.characters(max_codepoint=127), max_size=60) | PIECES)
def test_ascii_has_the_words_that_it_always_had(text: str):
    assert words(text) == before(text)
    assert words(f"{text}\nÉtoile\n{text}") == [*before(text), "étoile", *before(text)]


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12), max_size=6))
def test_no_word_reaches_beyond_a_line(lines: list[str]):
    assert words("\n".join(lines)) == [word for line in lines for word in words(line)]


@given(st.text(max_size=20))
def test_composition_makes_no_difference(text: str):
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


SPACED = {
    "labels": ("Title: Green Tea. Category: É-Drinks. Price: 2.50.", "green tea é drinks 2 50"),
    "width": ("ＡＢＣ　１２３", "abc 123"),
    "German": ("STRASSE Straße", "strasse strasse"),
    "Greek": ("ΟΔΟΣ οδός", "οδοσ οδόσ"),
    "Turkish": ("İSTANBUL istanbul KIRMIZI kırmızı", "istanbul istanbul kirmizi kirmizi"),
    "French, decomposed": ("cafe\u0301 CAFÉ", "café café"),
    "Vietnamese": ("Điện thoại", "điện thoại"),
    "Hindi": ("लाल कुर्ता हिन्दी", "लाल कुर्ता हिन्दी"),
    "Hindi, joined by hand": (f"क्{ZWJ}ष क्ष", "क्ष क्ष"),
    "Tamil": ("தமிழ் சொற்கள்", "தமிழ் சொற்கள்"),
    "Bengali": ("লাল শাড়ি", unicodedata.normalize("NFKC", "লাল শাড়ি")),
    "Arabic with and without vowels": ("كِتَابٌ كتاب", "كتاب كتاب"),
    "Arabic, stretched": ("العـــربية العربية", "العربية العربية"),
    "Arabic, hamza stays": ("أحمر", "أحمر"),
    "Arabic, shapes of old encodings": ("ﻛﺘﺎﺏ", "كتاب"),
    "Persian": (f"می{ZWNJ}خواهم می خواهم", "می خواهم می خواهم"),
    "Hebrew with and without points": ("סֵפֶר ספר", "ספר ספר"),
    "Korean": ("무선 이어폰", "무선 이어폰"),
    "Korean, decomposed": (unicodedata.normalize("NFD", "이어폰"), "이어폰"),
    "Tibetan": ("བོད་སྐད", "བོད སྐད"),
    "trade marks": ("Lego™ Duplo® ℠", "lego duplo"),
    "units": ("10㎏ 5 m² № 4", "10kg 5 m2 no 4"),
    "fractions": ("5½ inch", "5 1 2 inch"),
    "emoji": ("Tea ❤️ 🫖 👨‍👩‍👧 ℹ️ cup", "tea cup"),
    "soft hyphens": (f"Regen{SHY}schirm", "regenschirm"),
}


@pytest.mark.parametrize("name", SPACED)
def test_words_of_scripts_with_spaces(name: str):
    text, expected = SPACED[name]
    assert words(text) == expected.split()


UNSPACED = {
    "Chinese": ("无线耳机", ["无线", "线耳", "耳机"]),
    "one character": ("红 T恤", ["红", "t", "恤"]),
    "Japanese": ("無線イヤホン", ["無線", "イヤホ", "ヤホン"]),
    "small and long kana": ("シャツ ラーメン", ["シャツ", "ラーメ", "ーメン"]),
    "half width kana": ("ｶﾞﾗｽ", ["ガラス"]),
    "repeated character": ("人々", ["人々"]),
    "mixed": ("iPhone15ケース", ["iphone15", "ケース"]),
    "numbers": ("第3世代 10個入", ["第", "3", "世代", "10", "個入"]),
    # A letter with its vowel and tone marks is one unit: ก, าง, ... and ำ is the mark ํ and the letter า.
    "Thai": ("หูฟังสีดำ", ["หูฟังสี", "ฟังสีด\u0e4d", "งสีด\u0e4dา"]),
    "Thai, short": ("เสื้อ", ["เสื้อ"]),
    "Thai, zero-width space": (f"เสื้อ{ZWSP}แดง", ["เสื้อ", "แดง"]),
    "Lao": ("ສີແດງ", ["ສີແດງ"]),
    "Khmer": ("ភាសាខ្មែរ", ["ភាសាខ្មែ", "សាខ្មែរ"]),
    "Burmese": ("ကြက်သား", ["ကြက်သား"]),
}


@pytest.mark.parametrize("name", UNSPACED)
def test_words_of_scripts_without_spaces(name: str):
    text, expected = UNSPACED[name]
    assert words(text) == expected


def test_a_catalogue_says_which_characters_are_of_one_word():
    texts = [f"Title: {brand}{kind}{colour}." for brand in ("小米", "华为", "格力") for kind in ("无线耳机", "智能手表")
             for colour in ("黑色", "白色", "蓝色")]  # fmt: skip
    joined = find_pairs(texts)
    assert joined == {"小米", "华为", "格力", "无线", "线耳", "耳机", "智能", "能手", "手表", "黑色", "白色", "蓝色"}
    assert words("小米无线耳机红色", joined) == ["小米", "无线耳机", "红", "色"]
    assert find_pairs(["red tea", "café", "単語"]) == set()  # once is no word


def test_what_differs_in_width_case_or_silent_characters_is_one_title():
    assert normal("ＣＡＦÉ") == normal("cafe\u0301") == "café"
    assert normal(f"क्{ZWJ}ष") == normal("क्ष")
    assert normal("Red Cup") == "red cup"
