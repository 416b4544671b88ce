"""The documents: the README is short, links lead somewhere, and the commands that are named exist."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from calrec.cli.__main__ import main as calrec

REPO = Path(__file__).parents[1]
NAMES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=REPO, capture_output=True, text=True, check=True,
).stdout.splitlines()  # fmt: skip
DOCUMENTS = {name: (REPO / name).read_text() for name in NAMES if (REPO / name).is_file()}
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
# In `kubectl -n calrec get pods` calrec is a namespace, in `from calrec import CALRec` a package.
COMMANDS = re.compile(r"(?<!-n )(?<!from )(?<![\w.=-])(make|calrec) (?:-C \S+ )?([a-z][a-z-]*)")


def prose(text: str) -> str:
    """The document without its code, in which nothing is a link."""
    return SPAN.sub("`", FENCE.sub("", text))


def code(text: str) -> list[str]:
    """The fenced blocks and the spans of code of the document."""
    return [found[0] for found in FENCE.finditer(text)] + [found[0] for found in SPAN.finditer(FENCE.sub("", text))]


def anchors(text: str) -> set[str]:
    """What `#…` may name in the document, by GitHub's rule: lower case, no punctuation, repeats numbered."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return set(found)


def commands(program: str) -> list[tuple[str, str]]:
    """(document, word behind the program) of each command in the documents' code."""
    named = {
        (name, word)
        for name, text in DOCUMENTS.items()
        for part in code(text)
        for called, word in COMMANDS.findall(part)
        if called == program
    }
    return sorted(named)


def test_the_readme_is_short():
    lines = DOCUMENTS["README.md"].splitlines()
    assert len((REPO / "README.md").read_bytes()) <= 8 * 1024
    assert len(lines) <= 140
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_links_lead_to_files_and_headings(name: str):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(DOCUMENTS[name]))
    broken = []
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (REPO / name).parent / path if path else REPO / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_each_make_that_is_named_is_a_target():
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.M))
    named = commands("make")
    assert ("README.md", "run") in named
    assert [(name, word) for name, word in named if word not in targets] == []


def test_each_command_that_is_named_is_known(capsys: pytest.CaptureFixture[str]):
    named = commands("calrec")
    assert len({word for _, word in named}) > 5
    known = set()
    for word in {word for _, word in named}:
        with pytest.raises(SystemExit) as stopped:
            calrec([word, "--help"])
        if stopped.value.code == 0:
            known.add(word)
    assert [(name, word) for name, word in named if word not in known] == []
    assert "usage" in capsys.readouterr().out


def test_the_rooms_are_those_of_the_tables_and_of_the_tree():
    rooms = {path.parent.name for path in (REPO / "components" / "calrec").glob("*/__init__.py")}
    steps = {path.parent.name for path in (REPO / "components" / "calrec").glob("*/component.py")}
    tables = DOCUMENTS["CONTRIBUTING.md"].split("## Rooms")[1].split("### The order")[0].split("**The other rooms**")
    assert set(re.findall(r"^\| `(\w+)` \|", tables[0], re.M)) == steps
    assert set(re.findall(r"^\| `(\w+)` \|", tables[1], re.M)) == rooms - steps
    tree = DOCUMENTS["README.md"].split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"(\w+)/ ", tree))
    assert named == rooms | {"calrec", "pipelines", "images", "manifests", "tests"}
    assert set(re.findall(r"^  (\w+)/ +step: ", tree, re.M)) == steps


def test_the_order_of_the_rooms_is_that_of_the_contract():
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.replace("calrec.", "").replace(" | ", ", ") for layer in contracts[0]["layers"]]
    written = DOCUMENTS["CONTRIBUTING.md"].split("### The order")[1].split("```")[1]
    assert re.split(r"\s+→\s+", written.strip()) == layers


def test_the_anchor_rule_of_github():
    text = "# `make run`: a start\n## Is it better?\n## Is it better?\n```\n# no heading\n```\n## [A](b.md), −1 & ü_2\n"
    assert anchors(text) == {"make-run-a-start", "is-it-better", "is-it-better-1", "a-1--ü_2"}
