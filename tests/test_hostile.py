"""Ids, titles and names of files that would draw, link, script or move the cursor, from the raw log to the decision."""

import csv
import random
import re
import shlex
from pathlib import Path

import pytest
from mlflow import MlflowClient

from calrec.cli.__main__ import main
from calrec.system.printing import _ACTIVE_IN_LINES

ESCAPE = "\x1b[2J\x1b]0;pwned\x07"
TITLES = [
    f"{ESCAPE} red {{}}",
    "<script>alert({})</script>",
    "![x](http://evil.example/{}.png)",
    "[click {}](javascript:alert(1)) | **bold** | `code`",
    "\u202egnp.{} exe",
    "plain {}\r\nFAKE: promote passed",
]
STEPS = """\
ingest --source raw --domain {target} --out log
textify --data log --out texts
model --texts texts --out base --tokens-out tokens
finetune --texts texts --tokens tokens --model base --out one
generate --texts texts --tokens tokens --model one --target {target} --out g
retrieve --texts texts --generations g --out r
evaluate --texts texts --generations g --recommendations r --models one --out e
promote --evaluation e --out d
compare e e --method-b popularity --out compared.md"""
SET = [
    "--run",
    "tiny",
    "--set",
    "data.min_user=3",
    "--set",
    "data.min_item=1",
    "--set",
    "stage1.valid_users=8",
    "--set",
    "stage1.steps=2",
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A log of 40 users and 24 items; everything that is text is hostile, the name of the file too."""
    source = tmp_path / "raw"
    source.mkdir()
    items = [(f"i{n}{ESCAPE}<b>", TITLES[n % len(TITLES)].format(n)) for n in range(24)]
    draw = random.Random(0)
    with (source / "log \x1b[31m[a](evil).csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["user_id", "item_id", "timestamp", "title", "category", "brand"])
        for user in range(40):
            who = f"u{user}<img src=x>\u009b1m"
            for at in range(6):
                item, title = draw.choice(items)
                rows.writerow([who, item, 1_700_000_000 + at * 86_400, title, "a|<i>b", "`c`"])
    return source


def test_hostile_text_stays_text(raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    for step in STEPS.format(target=shlex.quote("men's | <b>")).splitlines():
        assert main([*shlex.split(step), *SET]) == 0, capfd.readouterr().err[-500:]
    for folder in ("log", "texts", "g", "r", "e", "d"):
        assert main(["inspect", folder]) == 0
    printed = capfd.readouterr()
    assert "pwned" in printed.out  # the text is there, as text
    for text in (printed.out, printed.err):
        assert not _ACTIVE_IN_LINES.search(text)
        assert not re.search(r"^\W*FAKE: promote", text, re.MULTILINE)
    notes = [run.data.tags.get("mlflow.note.content", "") for run in MlflowClient().search_runs(["1"])]
    pages = [path.read_text() for path in tmp_path.rglob("*.md")]
    assert len(pages) >= 5 and sum(map(bool, notes)) >= 8
    for text in (*pages, *notes):
        assert not _ACTIVE_IN_LINES.search(text)
        assert not re.search(r"^[^ \n].*<(script|img|b|i)\b", text, re.MULTILINE)  # four spaces: a block of code
        assert not re.search(r"^[^ \n].*(?<!\\)\[[^\]]*\]\(", text, re.MULTILINE)
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r"<(script|img|i)\b", page.read_text())
