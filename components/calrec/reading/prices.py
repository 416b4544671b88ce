"""Prices as shops write them → one text such as `2.07`, a range `12.99 - 15.99`.

A separator before other than three digits is the decimal one, whichever it is: `2,07`, `1.5`. Before three digits a
comma parts thousands and a point decimals (`1,234` is 1234, `1.234` is itself), unless more prices of the same source
show a decimal comma than a decimal point: then it is the other way round.
"""

import functools
import unicodedata
from collections.abc import Iterable

import regex

from calrec.reading.cleaning import clean_text

# Signs by their Unicode class; codes as three capitals; a few words that are neither.
_WORDS = "kr|zł|kč|ft|lei|rs|rp|rm|tl|fr|euros?|руб|лв|р|元|円|원"
_MONEY = rf"(?:\p{{Lu}}{{0,3}}\s?\p{{Sc}}|(?<!\p{{L}})(?:[A-Z]{{3}}|(?i:{_WORDS}))(?!\p{{L}})\.?)"
_NUMBER = r"((?:[0-9](?:[0-9.,'’ ]*[0-9])?|[.,][0-9]+)(?:[.,][-–—]{1,2})?)"
_AMOUNT = rf"(?:{_MONEY}\s*)?{_NUMBER}(?:\s*{_MONEY})?"
_PRICE = regex.compile(rf"{_AMOUNT}(?:\s*(?:[-‒–—−~〜]|\bto\b)\s*{_AMOUNT})?")
_DIGIT = regex.compile(r"\d")
_ROUND = regex.compile(r"[.,][-–—]{1,2}$")  # 12.- is 12
_GROUPED = regex.compile(r"[0-9]{1,3}(?:[ '’][0-9]{3})+(?:([.,])[0-9]+)?")
_BY_COMMA = regex.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:(\.)[0-9]+)?|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:(\.)[0-9]+)?")
_BY_POINT = regex.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+(?:(,)[0-9]+)?")
_PLAIN = regex.compile(r"[0-9]+|[0-9]*([.,])[0-9]+")
_ARABIC = str.maketrans("٫٬", ".,")
_KINDS = ((_BY_COMMA, ",", "."), (_BY_POINT, ".", ","))  # pattern, what parts thousands in it, the decimal separator


def decimal_comma(raw: Iterable[str]) -> bool:
    """Whether more of these prices show a decimal comma than a decimal point."""
    votes = [separator for text in raw for number in _numbers(text) for separator in (_decimal(number),)]
    return votes.count(",") > votes.count(".")


@functools.lru_cache(maxsize=1 << 16)
def clean_price(raw: str, comma: bool = False) -> str:
    """`$25.00` → `25.00`, a range keeps both ends; anything else (`from 3`, a negative price) is empty.

    With `comma` a comma before three digits is a decimal one, and a point parts thousands.
    """
    numbers = [_plain(number, comma) for number in _numbers(raw)]
    return " - ".join(numbers) if all(numbers) else ""


def amount(price: str) -> float:
    """A clean price as a number; of a range its first end."""
    return float(price.partition(" ")[0])


@functools.lru_cache(maxsize=1 << 16)
def _numbers(raw: str) -> tuple[str, ...]:
    """The numbers of a price or of a range; none when it is neither."""
    text = clean_text(raw)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_ARABIC))
        text = _DIGIT.sub(lambda digit: str(unicodedata.digit(digit[0])), text)
    found = _PRICE.fullmatch(text)
    return tuple(_ROUND.sub("", number) for number in found.groups() if number) if found else ()


def _decimal(number: str) -> str:
    """The separator that can only be the decimal one; empty when there is none, or when it may part thousands."""
    for pattern, thousands, other in _KINDS:
        if pattern.fullmatch(number):
            alone = number.count(thousands) == 1 and other not in number
            return (thousands if number[0] == "0" else "") if alone else other
    found = _GROUPED.fullmatch(number) or _PLAIN.fullmatch(number)
    return (found[1] or "") if found else ""


def _plain(number: str, comma: bool) -> str:
    """With a decimal point and no other separator; empty when the number is none."""
    if not any(pattern.fullmatch(number) for pattern in (_GROUPED, _BY_COMMA, _BY_POINT, _PLAIN)):
        return ""
    separator = _decimal(number) or ("," if comma else ".")
    digits = "".join("." if c == separator else c for c in number if c.isdigit() or c == separator)
    return "0" + digits if digits.startswith(".") else digits
