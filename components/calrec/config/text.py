"""How items and histories become text."""

from dataclasses import dataclass

from calrec.config.checks import check, one_of


@dataclass(frozen=True)
class TextConfig:
    """How items and histories become text (PAPER.md, "Text")."""

    attributes: tuple[str, ...] = ("title", "category", "brand", "price")
    """Attributes of an item's text, in this order."""
    max_tokens: int = 1024
    """Longest history in tokens; whole oldest items are dropped until it fits."""
    max_item_tokens: int = 64
    """Longest item text in tokens, end token not counted; longer ones are cut."""
    phrases: bool = True
    """Whether a phrase stands behind each item of a history. Beyond the paper: without it the next item is predicted
    from where the last one ends, which small models learn faster."""

    def __post_init__(self) -> None:
        for name in self.attributes:
            one_of("text.attributes", name, ("title", "category", "brand", "price"))
        check(bool(self.attributes), "text.attributes is empty; name at least title")
        check(len(set(self.attributes)) == len(self.attributes), f"text.attributes repeats a name: {self.attributes}")
        check(self.max_item_tokens >= 1, f"text.max_item_tokens must be >= 1, got {self.max_item_tokens}")
        check(
            self.max_tokens >= 2 * self.max_item_tokens,
            f"text.max_tokens must hold the prompt and one item, >= 2 x max_item_tokens = {2 * self.max_item_tokens}; "
            f"got {self.max_tokens}",
        )
