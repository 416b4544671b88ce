"""The scheduled pipelines as they are, on KFP's local runner with a real registry: nothing new, new data, a batch."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPO, write_sequences

SETTINGS = ["data.min_user=3", "data.min_item=1", "gate.beat=[]", "gate.metric=mrr", "gate.significant=false"]


def locally(root: Path, name: str, given: dict[str, Any], code: int = 0, **variables: str) -> str:
    """What a pipeline printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "CALREC"))}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", "TMPDIR": str(root / "tmp"), **variables}
    (root / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.pipelines.locally", name, str(root / "artifacts"), json.dumps(given)]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def finished(shown: str) -> list[str]:
    """Names of the steps that ran, in their order; only of one target: KFP's runner loses lines of parallel steps."""
    plain = re.sub(r"\x1b\[\d+m", "", shown)
    return re.findall(r"Task '([\w-]+)' finished with status SUCCESS", plain)


def aliases(root: Path) -> dict[str, int]:
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    (model,) = client.search_registered_models("name = 'calrec-home'")
    return {alias: int(number) for alias, number in model.aliases.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A first scheduled run: there is no model yet."""
    root = tmp_path_factory.mktemp("world")
    mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db").create_experiment("calrec", str(root / "mlartifacts"))
    source = write_sequences(root / "raw", users=40, items=36)
    given = {"sources": {"home": str(source)}, "targets": ["home"], "settings": SETTINGS, "only_new": True}
    return root, given, locally(root, "training", given)


@pytest.mark.long
def test_the_first_run_trains_and_its_model_is_the_champion(world: tuple[Path, dict[str, Any], str]):
    root, _, shown = world
    assert "watch: train; home: no model yet" in shown
    assert "there is no champion yet" in shown
    assert "promote" in finished(shown)
    assert aliases(root) == {"champion": 1, "challenger": 1}


@pytest.mark.long
def test_every_step_shows_itself_in_the_run_view(world: tuple[Path, dict[str, Any], str]):
    run = min((world[0] / "artifacts").glob("calrec-training-*"))
    summaries = {path.parent.name: path.read_text() for path in run.rglob("summary")}
    assert {
        "ingest",
        "textify",
        "base-model",
        "stage-1",
        "stage-2",
        "refit",
        "index",
        "generate",
        "retrieve",
        "evaluate",
    } <= set(summaries)
    assert all("|" in text for text in summaries.values())
    assert summaries["evaluate"].startswith("| target | users | Recall@10 |")
    assert {path.parent.name for path in run.rglob("report")} == {
        "watch",
        "ingest",
        "textify",
        "base-model",
        "evaluate",
    }


@pytest.mark.long
def test_nothing_new_ends_early(world: tuple[Path, dict[str, Any], str]):
    root, given, _ = world
    shown = locally(root, "training", given)
    assert "watch: no new data; the newest models of home were made from these data" in shown
    assert finished(shown) == ["watch"]
    assert "train" in locally(root, "training", {**given, "toys": True, "settings": [*SETTINGS, "stage1.steps=7"]})


@pytest.mark.long
def test_new_data_are_trained_on_and_the_champion_is_judged_by_the_same_fresh_users(
    world: tuple[Path, dict[str, Any], str],
):
    root, given, _ = world
    write_sequences(root / "raw", users=60, items=36)
    shown = locally(root, "training", given)
    assert "watch: train; home: data, settings or code have changed" in shown
    assert "champion home: ranked for 20 users" in shown
    newest = max(root.glob("artifacts/calrec-training-*/**/metrics.json"), key=lambda path: path.stat().st_mtime)
    document = json.loads(newest.read_text())
    assert {"calrec", "champion"} <= set(document["methods"])
    figures = {name: document["methods"][name]["figures"]["mrr"]["mean"] for name in ("calrec", "champion")}
    wins = figures["calrec"] > figures["champion"]
    assert re.search(rf"{'passed' if wins else 'failed'}: MRR [\d.]+ against [\d.]+ of the champion", shown)
    assert set(document["drift"]["figures"]) >= {"new_items_share", "category_shift", "length_shift"}
    assert aliases(root) == {"champion": 2 if wins else 1, "challenger": 2}
    assert finished(locally(root, "training", given)) == ["watch"]  # whatever the gate said, these data are done


@pytest.mark.long
def test_a_batch_recommends_to_everybody_with_the_champion(world: tuple[Path, dict[str, Any], str]):
    root, given, _ = world
    batch = {**given, "settings": [*SETTINGS, f"batch.destination={root}/lists", "batch.k=7"]}
    del batch["only_new"]
    shown = locally(root, "batch", batch)
    assert finished(shown)[:3] == ["find-champions", "ingest", "recommend"]
    (number,) = {number for alias, number in aliases(root).items() if alias == "champion"}
    rows = pq.read_table(root / "lists", partitioning="hive")
    users = Counter(rows["user_id"].to_pylist())
    assert set(users.values()) == {7} and len(users) == 60
    assert set(rows["model_version"].to_pylist()) == {f"models:/calrec-home/{number}"}
    today = (root / "lists" / "target=home" / "_latest").read_text()
    assert (
        set(rows["target"].to_pylist()) == {"home"} and f"date={rows['date'][0]}/content={rows['content'][0]}" == today
    )


@pytest.mark.long
def test_a_batch_that_failed_goes_on_from_its_copies(world: tuple[Path, dict[str, Any], str]):
    """Here when all lists are there: what they are to be copied to is no folder, and then it is."""
    root, given, _ = world
    batch = {**given, "settings": [*SETTINGS, f"batch.destination={root}/later", "batch.k=6"]}
    del batch["only_new"]
    copies = root / "copies"
    (root / "later").touch()
    assert "going on" not in locally(root, "batch", batch, 1, CALREC_CHECKPOINTS=str(copies))
    (progress,) = copies.glob("batch-*/progress.json")
    assert sum(part["users"] for part in json.loads(progress.read_bytes())["parts"]) == 60
    (root / "later").unlink()
    shown = locally(root, "batch", batch, CALREC_CHECKPOINTS=str(copies))
    assert f"going on from {progress.parent.name}, which another machine left" in shown
    assert pq.read_table(root / "later", partitioning="hive").num_rows == 60 * 6
    assert [path for path in copies.rglob("*") if path.is_file()] == []


def test_a_batch_without_a_champion_says_what_to_do(tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    shown = locally(tmp_path, "batch", {"sources": {"home": str(source)}, "targets": ["home"]}, code=1)
    assert "no champion of home: train them first" in shown


def test_toy_bodies_run_every_step(tmp_path: Path):
    given = {"sources": {"home": "x", "garden": "y"}, "targets": ["home", "garden"], "toys": True}
    locally(tmp_path, "training", given)
    steps = (tmp_path / "artifacts" / "ran").read_text().split()
    once = ["watch", "textify", "base_model"]
    twice = ["ingest", "index", "generate", "retrieve", "champion", "evaluate", "promote"]
    finetunes = 1 + 2 + 2  # stage 1, stage 2 and the refit
    assert sorted(steps) == sorted([*once, *2 * twice, *finetunes * ["finetune"]])
