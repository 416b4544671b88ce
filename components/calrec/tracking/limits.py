"""How much text the tables of an MLflow server take, and how what is longer is cut.

PostgreSQL refuses what SQLite stores at any length, so the lengths are those of MLflow's own schema.
"""

NAME = 250
"""Characters of a run's name, and of the key of a tag, metric or parameter."""
DESCRIPTION = 5000
"""Of a registered model's or a version's description."""
TAG = 8000
"""Of the value of a run's tag; the description of a run is one."""
PARAMETER = 6000
"""Of the value of a parameter."""


def cut(text: str, most: int, rest: str = "") -> str:
    """A text of at most `most` characters: whole lines when it has some, else whole characters.

    Args:
        text: of any length.
        most: what there is room for.
        rest: where all of it stands, which is said at the end.
    """
    text = text.replace("\0", "�").encode("utf-8", "replace").decode()  # what no database takes
    if len(text) <= most:
        return text
    said = f"… the rest is in {rest}" if rest else "…"
    lines = text[: most - len(said) - 2].rpartition("\n")[0].rstrip()
    return f"{lines}\n\n{said}" if lines else text[: most - len(said)].rstrip() + said
