"""`CALRec` in a notebook: frames in, frames out, and the same model wherever it is opened."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec import CALRec
from calrec.artifacts import read_manifest
from tests.conftest import write_sequences

SETTINGS = ["data.min_user=3", "data.min_item=1", "stage1.steps=2", "stage2.steps=2", "refit.steps=0"]


def frame(users: int = 40) -> pd.DataFrame:
    """Items that follow each other; the newest come last."""
    return pd.DataFrame(
        {"user": f"p{user}", "item": f"i{(user + n) % 12}", "time": 1_600_000_000 + n * 86_400, "title": f"Lamp {n}"}
        for user in range(users)
        for n in range(3 + user % 5)
    ).assign(title=lambda rows: "blue lamp " + rows["item"].str[1:])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def model(root: Path) -> CALRec:
    write_sequences(root / "home", first=100)
    return CALRec("tiny", SETTINGS, root=root).fit({"books": frame(), "home": root / "home"}, target="books")


def test_recommendations_are_rows_for_each_user_also_a_new_one(model: CALRec):
    found = model.recommend({"ann": ["i3", "blue lamp 4"], "new user": []}, k=4)
    assert list(found.columns) == [
        "user_id", "rank", "item_id", "title", "score", "source", "reason", "logprob", "match",
    ]  # fmt: skip
    assert found["user_id"].tolist() == ["ann"] * 4 + ["new user"] * 4 and found["rank"].tolist() == [1, 2, 3, 4] * 2
    assert set(found["item_id"]) <= {f"i{n}" for n in range(12)}
    assert (found["title"] == "blue lamp " + found["item_id"].str[1:]).all()
    rows = pd.DataFrame({"user_id": ["ann", "ann"], "item_id": ["i3", "i4"]})
    pd.testing.assert_frame_equal(model.recommend(rows, k=4), found[found["user_id"] == "ann"])  # another batch


def test_the_same_logs_again_make_nothing_anew(model: CALRec, root: Path, capsys: pytest.CaptureFixture[str]):
    again = CALRec("tiny", SETTINGS, root=root)
    again.fit({"books": pa.Table.from_pandas(frame()), "home": str(root / "home")}, target="books")
    lines = capsys.readouterr().out.splitlines()
    assert lines and all("unchanged, taken from an earlier run" in line for line in lines)
    assert again.recommend({"a": ["i1"]}).equals(model.recommend({"a": ["i1"]}))


def test_it_is_judged_against_the_baselines(model: CALRec):
    table = model.evaluate()
    assert table.index[0] == "CALRec" and "Item neighbours" in table.index
    assert {"recall_at_10", "ndcg_at_10", "mrr"} <= set(table.columns) and table["mrr"].between(0, 1).all()
    assert model.report.path.is_file() and "<html" in model.report._repr_html_()


def test_a_saved_model_is_the_same_one_anywhere(model: CALRec, tmp_path: Path):
    folder = model.save(tmp_path / "books-model")
    assert read_manifest(folder).kind == "version"
    loaded = CALRec.load(folder)
    assert loaded.recommend({"ann": ["i3"]}).equals(model.recommend({"ann": ["i3"]}))
    with pytest.raises(ValueError, match="not trained here"):
        loaded.evaluate()


def test_mistakes_are_said_with_the_remedy(model: CALRec, tmp_path: Path):
    fresh = CALRec("tiny", root=tmp_path)
    with pytest.raises(ValueError, match="no model yet: call fit"):
        fresh.recommend({"a": []})
    with pytest.raises(ValueError, match="at least one log"):
        fresh.fit({})
    with pytest.raises(ValueError, match="say which is the target='a'"):
        fresh.fit({"a": "x", "b": "y"})
    with pytest.raises(ValueError, match="target 'c' is not a category"):
        fresh.fit({"a": "x"}, target="c")
    with pytest.raises(ValueError, match="a log has no rows; its columns are user, item"):
        fresh.fit({"a": frame()[:0][["user", "item"]]})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fresh.fit({"a": tmp_path / "none.csv"})
    with pytest.raises(ValueError, match="unknown key of stage1 'step'; did you mean steps"):
        CALRec(settings=["stage1.step=3"])
    with pytest.raises(ValueError, match="the history of 'ann' is the text 'i3'; give a list"):
        model.recommend({"ann": "i3"})
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        model.recommend({"ann": ["i3"]}, k=0)
    with pytest.raises(ValueError, match="histories lack the columns user_id"):
        model.recommend(pd.DataFrame({"item_id": ["i3"]}))


def test_a_frame_and_its_file_are_one_log(root: Path, model: CALRec, tmp_path: Path):
    pq.write_table(pa.Table.from_pandas(frame()), tmp_path / "log.parquet")
    other = CALRec("tiny", SETTINGS, root=tmp_path / "other")
    other.fit({"books": tmp_path / "log.parquet", "home": root / "home"}, target="books")
    assert other.recommend({"a": ["i1"]}).equals(model.recommend({"a": ["i1"]}))


@pytest.mark.parametrize("code", ["import calrec", "import calrec.cli.__main__ as cli; cli.parser()"])
def test_the_import_and_the_help_load_nothing_heavy(code: str):
    heavy = "{'torch', 'numpy', 'pyarrow', 'pandas', 'mlflow', 'kfp', 'transformers', 'numba'}"
    code = f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
