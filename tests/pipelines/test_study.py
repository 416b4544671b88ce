"""The study on small sets: rows share steps, nothing is made twice, and mistakes are said before anything runs."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.study import ROWS, Study, table
from tests.conftest import write_sequences

SETS = ("scientific2018", "beauty2014", "games2018")
SMALL = (
    "data.min_user=3", "data.min_item=1", "model.size=tiny", "model.vocab_size=400", "text.max_tokens=128",
    "text.max_item_tokens=32", "stage1.steps=2", "stage1.batch_size=4", "stage1.valid_every=1", "stage2.steps=2",
    "stage2.batch_size=4", "stage2.valid_every=1", "stage1.valid_users=8", "stage2.valid_users=8",
    "generate.samples=4", "generate.max_users=12", "generate.max_new_tokens=16",
    "evaluate.bootstrap=50",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(SETS):
        write_sequences(folder / name, users=30, items=14, seed=number, first=20 * number)
    return folder


def test_rows_share_their_steps_and_go_on_where_they_were(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    study = Study(str(data), tmp_path, None, SMALL)
    paper = study.run("paper", "beauty2014")
    steps = sorted(path.name for path in tmp_path.iterdir())
    kinds = [name.partition("-")[0] for name in steps]
    assert kinds.count("ingest") == 3 and kinds.count("stage1") == 1 and kinds.count("stage2") == 1

    cooler = study.run("temperature-1", "beauty2014")  # generates anew, with the same models
    new = sorted({path.name for path in tmp_path.iterdir()} - set(steps))
    assert [name.partition("-")[0] for name in new] == ["evaluate", "generate", "retrieve"]

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert study.run("paper", "beauty2014") == paper
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    assert "evaluate beauty2014: unchanged, taken from an earlier run" in capsys.readouterr().out

    shown = table(study, {("paper", "beauty2014"): paper, ("temperature-1", "beauty2014"): cooler})
    assert shown.startswith("## beauty2014")
    rows = [line.split(" | ")[0] for line in shown.splitlines() if line.startswith("|")]
    assert rows[2:5] == ["| paper", "| temperature-1", "| popularity"]
    assert "--target beauty2014 --row paper --row temperature-1`" in shown


def test_a_study_that_stopped_between_a_model_and_its_tokens_goes_on(data: Path, tmp_path: Path):
    study = Study(str(data), tmp_path, None, SMALL)
    paper = study.run("paper", "beauty2014")
    (tokens,) = tmp_path.glob("base-model-*.tokens")
    shutil.rmtree(tokens)  # as if it had been stopped after the model was written
    assert study.run("paper", "beauty2014") == paper
    assert (tokens / "manifest.json").is_file()


def test_best_reads_the_target_alone_and_skips_stage_1(data: Path, tmp_path: Path):
    settings = (*SMALL, "stage1.steps=0", "refit.steps=2", "refit.batch_size=4")
    best = Study(str(data), tmp_path, None, settings).run("best", "games2018")
    kinds = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert kinds.count("ingest") == 1 and "stage1" not in kinds
    assert kinds.count("stage2") == kinds.count("refit") == 1
    assert list(json.loads((best / "metrics.json").read_text())["cost"]) == ["stage2", "refit", "generate"]
    assert (best / "report.html").is_file()


def test_every_row_has_sound_settings_on_every_set():
    study = Study("data", Path("unused"))
    for row in ROWS:
        for name in SETS:
            config = study.configuration(row, name)
            assert config.targets == (name,)
            assert config.generate.split == "test" and config.retrieve.exclude_seen == (row != "include-seen")


def test_a_wrong_row_or_set_is_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for options, said in (
        (["--row", "papr"], "row must be one of paper, best"),
        (["--target", "books"], "set must be one of scientific2018, beauty2014, games2018; got 'books'"),
    ):
        assert main(["study", "--data", str(tmp_path), "--root", str(tmp_path / "out"), *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
