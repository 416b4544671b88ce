"""`calrec` from files to files, as a user calls it."""

from pathlib import Path

import pytest

from calrec import artifacts
from calrec.cli import _name, main
from tests.conftest import write_sequences

SET = ["--run", "tiny", "--set", "data.min_user=3", "--set", "data.min_item=1", "--set", "stage1.valid_users=8"]


def call(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_every_step_from_raw_log_to_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    d = tmp_path
    assert call("ingest", "--source", write_sequences(d / "raw"), "--domain", "home", "--out", d / "home", *SET) == 0
    assert call("textify", "--data", d / "home", "--out", d / "texts", *SET) == 0
    assert call("model", "--texts", d / "texts", "--out", d / "base", "--tokens-out", d / "tokens", *SET) == 0
    inputs = ["--texts", d / "texts", "--tokens", d / "tokens"]
    assert call("finetune", *inputs, "--model", d / "base", "--out", d / "one", *SET) == 0
    assert (
        call(
            "finetune", *inputs, "--model", d / "one", "--stage", "stage2", "--target", "home", "--out", d / "two", *SET
        )
        == 0
    )
    assert call("generate", *inputs, "--model", d / "two", "--target", "home", "--out", d / "gen", *SET) == 0
    assert call("retrieve", "--texts", d / "texts", "--generations", d / "gen", "--out", d / "rec", *SET) == 0
    assert (
        call(
            "evaluate",
            "--texts",
            d / "texts",
            "--generations",
            d / "gen",
            "--recommendations",
            d / "rec",
            "--out",
            d / "eval",
            *SET,
        )
        == 0
    )
    assert call("promote", "--evaluation", d / "eval", "--out", d / "gate", *SET) == 0
    assert artifacts.read_manifest(d / "two").config["stage"] == "stage2"
    assert "| CALRec |" in capsys.readouterr().out
    for folder in ("home", "texts", "base", "tokens", "two", "gen", "rec", "eval", "gate"):
        assert call("inspect", d / folder) == 0
    shown = capsys.readouterr().out
    assert "k-core: users >= 3, items >= 1, until stable" in shown and "interactions.parquet: " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--source", "nowhere", "--out", "OUT"], "calrec: error: source nowhere does not exist"),
        (
            ["ingest", "--source", "sample:DELI", "--out", "OUT", "--set", "data.dedupe=first"],
            "unknown key of data 'dedupe'; did you mean dedup?",
        ),
        (["ingest", "--source", "s3://x/y", "--out", "OUT"], "s3:// is not supported"),
        (["textify", "--data", "nowhere", "--out", "OUT"], "nowhere: no such folder; run the step that makes it first"),
        (["inspect", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert call(*[str(tmp_path / "out") if a == "OUT" else a for a in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [("data/Books", "books"), ("gs://shop/logs/toys/", "toys"), ("https://x/y/retail.csv.gz#sha256=0", "retail"),
     ("sample:DELI", "deli"), ("logs/day-*.jsonl", "day-*"), ("./", "log")],
)  # fmt: skip
def test_a_category_is_named_after_its_source(source: str, name: str):
    assert _name(source) == name


def test_help_names_every_step(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for step in ("ingest", "textify", "model", "finetune", "generate", "retrieve", "evaluate", "promote", "inspect"):
        assert step in shown
