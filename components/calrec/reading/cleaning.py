"""Attributes of items: raw text of a shop's pages → clean text; what is no attribute is missing (empty)."""

import html
import re

_TAG = re.compile(r"<[^<>]*>")
# A joiner or non-joiner stays behind a letter or pictograph beyond ASCII: it spells words of many scripts of Asia.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2060\ufeff\ud800-\udfff]|(?<![^\x00-\xa0\\s\u200b-\u200f])[\u200c\u200d]"
)
_SPACE = re.compile(r"\s+")
_BY = re.compile(r"^by\s+", re.IGNORECASE)
# A fragment of the shop's page instead of an attribute: it begins with a tag of the page's structure, is a style sheet
# or a script (Amazon 2018 has titles with the page's timer in them).
_FRAGMENT = re.compile(
    r"^\s*</?(?:span|img|div|script|style|table|input|a)\b|[.#][\w-]+\s*\{[^{}]*:[^{}]*\}|\.getTime\(", re.IGNORECASE
)
_TORN = re.compile(r"\s*/>$")


def clean_text(raw: str) -> str:
    """Entities unescaped, tags and control characters removed, white space collapsed; empty when nothing is left."""
    text = html.unescape(html.unescape(raw)) if "&" in raw else raw
    if _FRAGMENT.search(text):
        return ""
    text = _TAG.sub(" ", text) if "<" in text else text
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def clean_title(raw: str, category: str) -> str:
    """Without the end of a torn keyword tag (`…,BRAND />`); missing when that leaves the category's name alone."""
    text = clean_text(raw)
    if not text.endswith("/>"):
        return text
    text = _TORN.sub("", text)
    return "" if text == category else text


def clean_brand(raw: str) -> str:
    """Without the `by` of a shop page."""
    return _BY.sub("", clean_text(raw))
