"""Commands that a person copies do what they say, whatever the names of categories and items."""

import shlex
from pathlib import Path

import pytest

from calrec.api.summary import _serve, _try_it

TITLES = ["x", "$(touch owned)`touch owned` \"a\" 'b'", "Kaffee; 500 g"]


@pytest.mark.parametrize("target", ["men's", "Bücher & more", "a $(b)"])
def test_copied_commands_have_the_names_as_they_are(target: str):
    folders = {name: Path("/runs", target, name) for name in ("model", "index")}
    said = shlex.split(" ".join(_try_it(target, {"history": TITLES}, folders)[1:]).replace("\\", ""))
    assert said[-7:-2] == [str(folders["model"]), "--index", str(folders["index"]), "--history", "; ".join(TITLES[1:])]
    assert shlex.split(_serve(target, "http://host", local=False))[-1] == f"models:/calrec-{target}@champion"
    assert shlex.split(_serve(target, "sqlite:////a b/x.db", local=True))[2:] == [
        f"TARGET={target}",
        "STORE=sqlite:////a b/x.db",
    ]


def test_no_password_is_printed():
    assert "secret" not in _serve("books", "https://me:secret@host", local=False)
