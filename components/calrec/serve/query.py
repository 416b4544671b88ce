"""What a client may ask, with its limits; what is wrong with a query is said in a sentence."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from calrec.config.checks import check
from calrec.recommend.rows import Described, History

LONGEST = 1_000
"""Characters of an id, a title or another text."""
EVENTS = 10_000
"""Items of a history. The model reads the newest that fit into its prompt."""
DESCRIBED = 1_000
"""Items of a history that is given by attributes."""
IDS = 100_000
"""Ids of a filter."""
MOST = 100
"""Items of an answer."""
_NOBODY = "1"  # the user of `calrec recommend --history`
_SHOWN = 3  # mistakes that are named
_NAME = 100  # characters of a field's name that are repeated


class _Strict(BaseModel):
    """No field but the declared ones, no conversion of types, and no text that is not one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @field_validator("*")
    @classmethod
    def _has_texts(cls, value: Any) -> Any:
        for place, text in enumerate(value) if isinstance(value, list) else [(-1, value)]:
            if isinstance(text, str):
                where = f"entry {place} " if place >= 0 else ""
                check(len(text) <= LONGEST, f"{where}has {len(text):,} characters; at most {LONGEST:,} are read")
                check(place < 0 or text != "", f"{where}is empty; leave it out")
                check(_is_unicode(text), f"{where}holds half a surrogate pair, which is no text; leave it out")
        return value


class Item(_Strict):
    """An item by what is known of it."""

    title: str = Field(description="the item's title")
    category: str | None = Field(default=None, description="text")
    brand: str | None = Field(default=None, description="text")
    price: str | None = Field(default=None, description='text such as "12.50"')


class Query(_Strict):
    """What one user bought, and what is wanted; without a history the user is new."""

    user_id: str | None = Field(default=None, description="any text: the samples that are drawn depend on it")
    items: list[str] | None = Field(
        default=None, max_length=EVENTS, description=f"ids, oldest first; of a long history the newest {EVENTS:,}"
    )
    titles: list[str] | None = Field(
        default=None, max_length=EVENTS, description=f"titles, oldest first; of a long history the newest {EVENTS:,}"
    )
    attributes: list[Item] | None = Field(
        default=None,
        max_length=DESCRIBED,
        description="objects with title and, if known, category, brand and price, oldest first; of a long history the "
        f"newest {DESCRIBED:,}",
    )
    k: int | None = Field(default=None, ge=1, le=MOST, description=f"how many items are wanted, from 1 to {MOST}")
    categories: list[str] | None = Field(default=None, max_length=IDS, description="categories to recommend from")
    in_stock: list[str] | None = Field(default=None, max_length=IDS, description="ids of what may be recommended")
    exclude: list[str] | None = Field(default=None, max_length=IDS, description="ids of what may not be recommended")

    @model_validator(mode="after")
    def _has_one_history(self) -> "Query":
        given = [name for name in ("items", "titles", "attributes") if getattr(self, name) is not None]
        check(len(given) <= 1, f"has {' and '.join(given)}; give one of them, or none for a new user")
        return self

    def history(self) -> History:
        """What was bought, as the recommender takes it."""
        described = tuple(
            Described(one.title, one.category or "", one.brand or "", one.price or "") for one in self.attributes or ()
        )
        return History(self.user_id or _NOBODY, tuple(self.items or ()), tuple(self.titles or ()), described)


class Sent(Query):
    """A query, or the reason why it is none: MLflow would repeat in its answer all that was sent."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _keeps_the_reason(cls, sent: Any) -> Any:
        try:
            Query.model_validate(sent)
        except ValidationError as error:
            return {"refused": _reason(error)}
        return sent

    @property
    def refused(self) -> str:
        """What is wrong with it; empty when nothing is."""
        return str((self.model_extra or {}).get("refused", ""))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: ValidationError) -> str:
    """The first mistakes, each with what the field is for."""
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    said = [_mistake(".".join(str(part) for part in one["loc"]), one["msg"], one["type"]) for one in mistakes[:_SHOWN]]
    if len(mistakes) > _SHOWN:
        said.append(f"and {len(mistakes) - _SHOWN:,} more")
    return "; ".join(said)


def _mistake(name: str, message: str, kind: str) -> str:
    field = Query.model_fields.get(name.partition(".")[0])
    message = message.removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{name[:_NAME]!r}: unknown field; known: {', '.join((Item if field else Query).model_fields)}"
    return f"{name[:_NAME]}: {message} ({field.description})" if field else f"the query {message}"
