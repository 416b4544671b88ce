"""The encoding of a text file: as its first bytes say, or as a library guesses it; bytes of any encoding as UTF-8."""

import codecs
import re
from collections.abc import Iterable, Iterator

_MARKS = (  # the longer mark first: that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORD = re.compile(r"\w*[^\x00-\x7f\W]\w*|\ufffd")  # a word with a letter that is not ASCII
# In Western words accents stand between plain letters, and a capital begins the word; charset-normalizer, which asks
# how often letters occur, takes two lines of French for Latvian.
_NOT_WESTERN = re.compile(r"[^\x00-\x7f]{3}|[a-z\xdf-\xff][\xc0-\xde\x8a\u0160\u017d\u0178]|[\xb2-\xbe\ufffd]\w|\ufffd")
_ODD_SHARE = 0.1
_GUESSED = 1 << 16  # bytes that are guessed from


def detect_encoding(head: bytes) -> str:
    """The encoding of a text by its first bytes: a byte order mark, zeros, valid UTF-8, or a guess.

    A text with a few bytes that are no UTF-8 among many letters that are is damaged UTF-8. What nothing fits is UTF-8
    too: its readers count what they cannot read.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    pairs = head[: 1 << 12]
    if b"\0" in pairs:  # UTF-16 without a mark: half of the bytes of plain text are zeros
        for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            if pairs[first::2].count(0) > len(pairs) // 4 > pairs[1 - first :: 2].count(0):
                return name
    bad = sum("\ud800" <= c <= "\udfff" for c in codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head))
    good = sum(byte & 0xC0 == 0xC0 for byte in head) - bad if bad else 1
    return "utf-8" if bad == 0 or good > bad else _guessed(head)


def _guessed(head: bytes) -> str:
    """From the lines that are not ASCII: cp1252, by far the commonest, where it fits, else as a library says."""
    import charset_normalizer

    text = b"\n".join(line for line in head.split(b"\n")[:-1] or [head] if not line.isascii())[:_GUESSED]
    words = _WORD.findall(text.decode("cp1252", "replace"))
    odd = sum(bool(_NOT_WESTERN.search(word)) for word in words)
    if odd <= _ODD_SHARE * len(words):
        return "cp1252"
    best = charset_normalizer.from_bytes(text).best()
    return best.encoding if best else "utf-8"


def as_utf8(name: str, chunks: Iterable[bytes], encoding: str, whole: bool = True) -> Iterator[bytes]:
    """The bytes of a file, or of its beginning, as UTF-8; those that its encoding does not know stay as they are.

    Raises:
        ValueError: the bytes end inside a character, or are not of this encoding at all (UTF-16, UTF-32).
    """
    if codecs.lookup(encoding).name == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", "surrogateescape")
        yield decoder.decode(b"", final=whole).encode("utf-8", "surrogateescape")
    except UnicodeError as error:
        raise ValueError(f"{name} is not {encoding} ({error}); set data.encoding to what it is") from None
