"""The paper's texts: items and the prompt.

Every unit begins with a space and a letter, which is a pre-token boundary of the GPT-2, Llama-3, Qwen and SentencePiece
tokenizers: the ids of a prompt are then the concatenated ids of its units (tokens.py measures that).
"""

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


def prompt(history: Sequence[str], phrases: bool = True) -> str:
    """The text that the model continues with the next item's text; an empty history asks for the first item.

    Args:
        history: item texts, oldest first.
        phrases: whether :data:`NEXT` stands behind each.
    """
    behind = [NEXT] if phrases else []
    return " ".join([OPENING, *(part for text in history for part in (text, *behind))])
