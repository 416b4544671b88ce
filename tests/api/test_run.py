"""A whole run on this machine, tracked in MLflow: the tiny run of the embedded sample."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from calrec.artifacts import read_manifest
from tests.conftest import REPO, shared, write_sequences
from tests.web import serving


def run(root: Path, *arguments: str, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    command = [sys.executable, "-m", "calrec.cli", "run", "--root", str(root), *arguments]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def evaluations(root: Path) -> dict[str, dict]:
    """Domain → metrics.json of the first run, without what a clock says."""
    first = min((root / "runs").iterdir())
    found = {p.parts[-3]: json.loads(p.read_text()) for p in first.glob("*/evaluation/metrics.json")}
    return {
        domain: {name: value for name, value in document.items() if name not in ("cost", "curves")}
        for domain, document in found.items()
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("run")
    return root, run(root, "--run", "tiny")


def test_a_person_can_follow_and_ends_with_where_to_look(first: tuple[Path, str]):
    _, shown = first
    for step in (
        "ingest pastry:",
        "textify:",
        "model scratch:",
        "stage1:",
        "stage2 cosmetics:",
        "refit cosmetics:",
        "generate seafood:",
        "retrieve",
        "evaluate",
    ):
        assert step in shown
    assert re.search(r"CALRec +0\.\d{4}.*\nPopularity +0\.\d{4}", shown)
    assert "User " in shown and shown.count("(score ") == 5
    assert re.search(
        r"MLflow UI:  make ui STORE=sqlite:\S+, then open http://127.0.0.1:5000/#/experiments/\d+/runs/", shown
    )
    assert all(Path(path).is_file() for path in re.findall(r"^report: +(\S+)", shown, re.MULTILINE))
    assert re.search(r"took \d+ s, at most \d\.\d GiB of memory", shown)
    assert "Dataset(" not in shown and "Traceback" not in shown


def test_its_last_words_recommend(first: tuple[Path, str], capsys: pytest.CaptureFixture[str]):
    from calrec.cli.__main__ import main

    said = re.search(r"calrec (recommend --model .*) \\\n +(--history .*)", first[1])
    assert said
    assert main([*shlex.split(said[1]), *shlex.split(said[2]), "--run", "tiny"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 6 and "wrote" in shown[1]
    newest = first[0] / "runs" / "latest"
    assert {kind: read_manifest(newest / kind).kind for kind in ("texts", "tokens")} == {
        "texts": "texts",
        "tokens": "tokens",
    }
    assert {link.name for link in (newest / "seafood").iterdir()} == {"model", "index", "recommendation", "evaluation"}


def test_the_run_tree_in_mlflow(first: tuple[Path, str]):
    import mlflow

    root, _ = first
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("calrec").experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_name: r for r in runs if r.info.run_id != parent.info.run_id}
    targets = [
        f"{step} · {t}"
        for step in ("stage 2", "refit", "index", "generate", "retrieve", "champion", "evaluate", "promote")
        for t in ("cosmetics", "seafood")
    ]
    sources = [f"ingest · {s}" for s in ("cosmetics", "pastry", "seafood")]
    assert set(children) == {*targets, *sources, "textify", "base model", "stage 1"}
    assert {r.data.tags["mlflow.parentRunId"] for r in children.values()} == {parent.info.run_id}
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert "recall_at_10" in children["evaluate · seafood"].data.metrics
    assert {"report.html", "report.md", "manifest.json", "examples.json", "figures"} <= {
        f.path for f in client.list_artifacts(children["evaluate · seafood"].info.run_id)
    }
    assert [name for name, r in children.items() if not r.data.tags.get("mlflow.note.content")] == []
    assert children["stage 1"].data.params["stage1.steps"] == "6"
    assert len(client.get_metric_history(children["stage 1"].info.run_id, "valid_nig")) == 3
    assert children["textify"].inputs.dataset_inputs and children["ingest · pastry"].inputs.dataset_inputs


def test_the_parent_run_tells_what_came_out(first: tuple[Path, str]):
    import mlflow

    root, shown = first
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("calrec").experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    judged = {r.data.tags["calrec.domain"]: r.data for r in runs if r.data.tags.get("calrec.step") == "evaluate"}
    assert f"/runs/{parent.info.run_id}?" in shown
    assert {name: value for name, value in parent.data.metrics.items() if "/" in name} == {
        f"{target}/{name}": judged[target].metrics[name]
        for target in ("cosmetics", "seafood")
        for name in ("recall_at_10", "ndcg_at_10")
    }
    assert parent.data.metrics.keys() - {"seconds", "peak_memory_gib"} == {n for n in parent.data.metrics if "/" in n}
    header, _, *rows = parent.data.tags["mlflow.note.content"].split("\n\n")[0].splitlines()
    assert "Recall@10" in header and [row.split(" | ")[0] for row in rows] == ["| cosmetics", "| seafood"]
    assert all("version 1" in row for row in rows)
    assert "this run trains" in parent.data.tags["mlflow.note.content"]
    assert {one.dataset.name for one in parent.inputs.dataset_inputs} == {
        f"data.{s}" for s in ("cosmetics", "pastry", "seafood")
    }
    assert parent.data.params["source.pastry"].startswith("sample:PASTRY at ")
    assert judged["cosmetics"].params.keys() == judged["seafood"].params.keys()
    assert judged["cosmetics"].metrics.keys() == judged["seafood"].metrics.keys()


def test_a_rerun_with_another_k1_does_not_train_again(first: tuple[Path, str]):
    root, _ = first
    shown = run(root, "--run", "tiny", "--set", "retrieve.k1=0.5")
    for step in (
        "ingest pastry",
        "textify",
        "base_model",
        "stage1",
        "stage2 seafood",
        "refit seafood",
        "generate seafood",
    ):
        assert re.search(rf"^{step}: unchanged, taken from an earlier run", shown, re.MULTILINE), step
    assert "loss" not in shown
    assert "retrieve cosmetics:" in shown and "evaluate cosmetics:" in shown


def test_the_same_seed_gives_identical_metrics(first: tuple[Path, str], tmp_path: Path):
    run(tmp_path, "--run", "tiny")
    assert evaluations(tmp_path) == evaluations(first[0])
    assert set(evaluations(tmp_path)) == {"cosmetics", "seafood"}


@pytest.mark.long  # test_retraining.py has the same of the scheduled pipeline
def test_changed_data_are_read_again(tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    small = ["--run", "tiny", "--source", f"home={source}", "--set", "data.min_user=3", "--set", "data.min_item=1"]
    assert "home: 40 users" in run(tmp_path / "out", *small).replace("ingest home: 40", "home: 40")
    assert "ingest home: unchanged" in run(tmp_path / "out", *small)
    write_sequences(tmp_path / "raw", users=44)
    shown = run(tmp_path / "out", *small)
    assert "ingest home: 44 users" in shown and "stage1:" in shown


def test_a_failing_step_says_why(tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    shown = run(tmp_path / "out", "--run", "tiny", "--source", f"home={source}", "--set", "data.min_user=500", code=2)
    assert re.search(r"^calrec: error: .*no user is left after cleaning", shown, re.MULTILINE)
    assert "Traceback" not in shown
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/out/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("calrec").experiment_id])
    assert {(r.info.run_name, r.info.status) for r in runs} == {("home", "FAILED"), ("ingest · home", "FAILED")}


def test_a_missing_source_is_said_before_anything_starts(tmp_path: Path):
    shown = run(tmp_path / "out", "--run", "tiny", "--source", f"home={tmp_path}/none", code=2)
    assert "none does not exist" in shown
    assert not (tmp_path / "out").exists()


def test_a_secret_in_a_source_is_written_nowhere(tmp_path: Path):
    with serving() as web:
        web.files["/books.csv"] = b"user_id,item_id,title\n"
        uri = f"books={web.url.replace('http://', 'http://me:hunter2@')}/books.csv?sig=hunter2"
        said = run(tmp_path / "root", "--run", "tiny", "--source", uri, code=2)
    assert "hunter2" not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter2" in path.read_bytes()]


@pytest.mark.long
def test_real_amazon_sets_run_from_end_to_end(tmp_path: Path):
    small = [
        "--set",
        "stage1.steps=5",
        "--set",
        "stage2.steps=5",
        "--set",
        "generate.max_users=40",
        "--set",
        "generate.samples=4",
    ]
    sources = [f"{name}={shared('data', name)}" for name in ("scientific2018", "beauty2014", "games2018")]
    shown = run(tmp_path, *[a for s in sources for a in ("--source", s)], "--target", "scientific2018", *small)
    assert "evaluate scientific2018:" in shown
    shown = run(tmp_path, "--source", f"gifts={shared('data', 'amazon2018-gift-cards')}", *small)
    assert "evaluate gifts:" in shown
