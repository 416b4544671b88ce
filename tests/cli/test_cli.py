"""`calrec` from files to files, as a user calls it."""

import json
from pathlib import Path

import pytest

from calrec import artifacts
from calrec.cli.__main__ import _configuration, main, parser
from calrec.cli.commands import parse_source
from calrec.config.runs import get_run
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
        (["ingest", "--source", "hdfs://x/y", "--out", "OUT"], "hdfs:// is not supported"),
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


def test_a_file_of_settings_lies_over_the_run_and_below_the_command_line(tmp_path: Path):
    given = {"sources": [{"domain": "books", "uri": "data"}], "targets": ["books"], "data": {"columns": {"user": "u"}},
             "stage1": {"domains": ["books"], "steps": 7, "lr": 0.5}}  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(given))
    arguments = ["--texts", "t", "--tokens", "t", "--model", "m", "--out", "o", "--run", "tiny"]
    settings = ["--settings", str(tmp_path / "settings.json"), "--set", "stage1.lr=0.25"]
    config = _configuration(parser().parse_args(["finetune", *arguments, *settings]))
    assert (config.stage1.steps, config.stage1.lr, config.stage1.domains) == (7, 0.25, ("books",))
    assert config.data.columns.user == "u" and config.data.columns.item == get_run("tiny").data.columns.item
    assert config.stage1.batch_size == get_run("tiny").stage1.batch_size and config.stage2 == get_run("tiny").stage2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stge1": {}}', "unknown key of settings 'stge1'; did you mean stage1?"),
        ('{"stage1": {"step": 7}}', "unknown key of settings.stage1 'step'; did you mean steps?"),
        ('{"stage1": {"steps": "7"}}', "settings.stage1.steps must be of type int, got '7'"),
        ('{"stage1": 7}', "settings.stage1 must be of type StageConfig, got 7"),
        ("[]", "settings must be of type Config, got []"),
        ("{", "settings.json: Expecting property name"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_file_of_settings_is_the_users_mistake(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    command = ["textify", "--data", "d", "--out", str(tmp_path / "out"), "--settings", str(tmp_path / "settings.json")]
    assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "settings.json" in error and "\n" not in error


@pytest.mark.parametrize(
    ("source", "name"),
    [("data/Books", "books"), ("gs://shop/logs/toys/", "toys"), ("https://x/y/retail.csv.gz#sha256=0", "retail"),
     ("sample:DELI", "deli"), ("logs/day-*.jsonl", "day-*"), ("./", "log")],
)  # fmt: skip
def test_a_category_is_named_after_its_source(source: str, name: str):
    assert parse_source(source) == (name, source)


def test_help_names_every_step(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    steps = ("ingest", "textify", "model", "finetune", "generate", "retrieve", "champion", "evaluate", "promote")
    for step in (*steps, "index", "recommend", "compare", "serve", "inspect"):
        assert f"\n    {step}" in shown
