"""The paper's texts: items, the prompt, and their way back.

Every unit begins with a space and a letter, which is a pre-token boundary of the GPT-2, Llama-3, Qwen and SentencePiece
tokenizers: the ids of a prompt are then the concatenated ids of its units (tokens.py measures that).
"""

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

UNKNOWN = "Unknown"

OPENING = "This is the summary of a user's purchase history. The first item bought is as follows."
NEXT = "The next item bought is as follows."
LABELS = ("Title:", "Category:", "Brand:", "Price:")


def item_text(item: Mapping[str, str], attributes: Sequence[str]) -> str:
    """`Title: … . Category: … .` in the order of `attributes`; a missing value is the word Unknown."""
    return " ".join(f"{name.capitalize()}: {item[name] or UNKNOWN}." for name in attributes)


def item_texts(items: pa.Table, attributes: Sequence[str]) -> pa.ChunkedArray:
    """:func:`item_text` of every row of an items table, column by column."""
    parts = []
    for name in attributes:
        given = pc.fill_null(items[name], "")
        value = pc.if_else(pc.equal(given, ""), UNKNOWN, given)
        parts.append(pc.binary_join_element_wise(f"{name.capitalize()}: ", value, ".", ""))
    return pc.binary_join_element_wise(*parts, " ")


def attribute(texts: Sequence[str], name: str, attributes: Sequence[str]) -> list[str]:
    """The value of one attribute in each of many item texts, empty where it is missing: the way back from a text.

    Args:
        texts: made with :func:`item_text`.
        name: the attribute.
        attributes: those of the texts, in their order. Where a value holds the label of a later one, such as a title
            with `Price: 3.` in it, the last label counts.
    """
    parts = (f"{each.capitalize()}: {'(.*)' if each == name else '.*'}\\." for each in attributes)
    pattern = re.compile(" ".join(parts), re.DOTALL)
    found = (pattern.fullmatch(text) for text in texts)
    values = (match[1] if match else "" for match in found)
    return ["" if value == UNKNOWN else value for value in values]


def prompt(history: Sequence[str], phrases: bool = True) -> str:
    """The text that the model continues with the next item's text; an empty history asks for the first item.

    Args:
        history: item texts, oldest first.
        phrases: whether :data:`NEXT` stands behind each.
    """
    behind = [NEXT] if phrases else []
    return " ".join([OPENING, *(part for text in history for part in (text, *behind))])
