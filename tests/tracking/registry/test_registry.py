"""What the registry has: versions that are whole, that say where they are from, and that nobody has changed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from calrec.artifacts import NOT_KNOWN, read_manifest
from calrec.cli.__main__ import main
from calrec.config import Source
from calrec.promote.version import example
from calrec.recommend.champion import open_version
from calrec.tracking import mlflow_client, promotion, registry, runs
from calrec.watch import current
from tests.conftest import write_sequences
from tests.tracking.registry.world import Versions, numbers
from tests.versions import GENERATE, RETRIEVE


def test_nothing_is_registered_at_first(target: str):
    assert numbers(target) == (None, None)


def test_a_version_is_whole_and_opens_on_another_machine(versions: Versions, target: str):
    assert versions.settle() == f"calrec-{target} version 1 is the champion, the first one"
    version = registry.champion(target)
    assert version and version.number == 1 and version.aliases == ("challenger", "champion")
    folder = registry.download_version(version.uri)
    assert folder and read_manifest(folder) == read_manifest(versions.folder())
    champion = open_version(folder)
    assert (champion.generate, champion.retrieve) == (GENERATE, RETRIEVE)
    for part in ("model", "index"):
        assert read_manifest(folder / part) == read_manifest(getattr(versions.made, part))


def test_a_version_says_what_it_was_made_from_and_judged_by(
    versions: Versions, target: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CALREC_COMMIT", "0123abc")
    monkeypatch.setenv("KFP_RUN_ID", f"run-of-{target}")
    with runs.step("promote", target) as run:
        run.metrics(0, {"promoted": 1.0})
        promotion.register_version(versions.folder(), example(versions.made.index), "s", None, True)
    version = registry.champion(target)
    assert version
    judged = read_manifest(versions.made.evaluation)
    expected = {
        "calrec.state": "s",
        "calrec.data": judged.inputs["texts"],
        "calrec.commit": "0123abc",
        "calrec.pipeline_run": f"run-of-{target}",
        "calrec.base_model": "scratch",
        "calrec.tuning": "none",
        "calrec.decision": "is the champion, the first one",
    }
    assert {name: version.tags.get(name) for name in expected} == expected
    assert len(version.tags["calrec.config"]) == 16
    metrics = registry.metrics(version)
    assert "promoted" not in metrics  # of the run, not of the model
    assert {name: judged.counts[name] for name in ("recall_at_5", "mrr")}.items() <= metrics.items()
    assert metrics["recall_at_5_low"] <= metrics["recall_at_5"] <= metrics["recall_at_5_high"]
    entry = runs.client().get_model_version(f"calrec-{target}", "1")
    assert entry.description == (versions.folder() / "card.md").read_text()
    assert json.loads(registry.request(version)) == {"inputs": example(versions.made.index)}


def test_step_by_step_the_champion_is_ranked_beside_a_new_model(
    versions: Versions, target: str, small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    versions.settle(k=3)
    made, out = versions.made.index.parent, tmp_path / "evaluation"
    settings = ["retrieve.k=5", "evaluate.recall_at=[1,5]", "evaluate.ndcg_at=5", "gate.metric=mrr"]
    inputs = ["--texts", f"{small.texts}", "--generations", f"{made / 'generations'}"]
    inputs += [f"--set={one}" for one in settings]
    ranked = ["champion", *inputs, "--out", f"{tmp_path / 'champion'}", "--model"]
    assert main([*ranked, f"models:/calrec-{target}@champion"]) == 0
    assert "champion home: ranked for 15 users" in capsys.readouterr().out
    inputs += ["--recommendations", f"{made / 'recommendations'}", "--champion", f"{tmp_path / 'champion'}"]
    assert main(["evaluate", *inputs, "--out", f"{out}"]) == 0
    document = json.loads((out / "metrics.json").read_text())
    figures = {method: each["figures"] for method, each in document["methods"].items()}
    assert figures["champion"] == figures["calrec"]  # the same model
    assert document["drift"]["figures"]["new_items_share"] == 0
    assert main([*ranked, f"models:/calrec-{target}@nobody"]) == 2
    assert f"calrec-{target}" in capsys.readouterr().err


def test_it_holds_no_pickle_and_all_code_that_it_runs(versions: Versions, target: str, tmp_path: Path):
    import mlflow

    versions.settle()
    whole = Path(mlflow.artifacts.download_artifacts(registry.champion(target).uri, dst_path=str(tmp_path / "all")))
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert {
        path.suffix for path in files if path.suffix in (".pkl", ".pickle", ".bin", ".pt", ".pth", ".joblib")
    } == set()
    assert [path.name for path in files if path.suffix == ".safetensors"] == ["model.safetensors"]
    assert (whole / "code" / "calrec" / "serve" / "model.py").is_file()
    requirements = (whole / "requirements.txt").read_text().split()
    assert any(line.startswith("torch==") for line in requirements) and "calrec" not in str(requirements)


@pytest.mark.parametrize("file", ["model/model.safetensors", "index/weights.npy", "settings.json", "manifest.json"])
def test_a_changed_file_is_refused(versions: Versions, target: str, tmp_path: Path, file: str):
    shutil.copytree(versions.folder(), tmp_path / "changed")
    path = tmp_path / "changed" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"changed|digest|does not fit|not JSON|Expecting|control character|delimiter"):
        open_version(tmp_path / "changed")


def test_files_and_manifest_that_were_changed_together_are_refused(versions: Versions, target: str):
    versions.settle()
    with runs.step("promote", target):
        request, tags = example(versions.made.index), {"calrec.content": "x"}
        other = promotion._log(versions.folder(4), f"calrec-{target}", request, tags, {})
    runs.client().create_model_version(f"calrec-{target}", other.model_uri, model_id=other.model_id)
    with pytest.raises(ValueError, match=rf"calrec-{target}/2 holds \w+, but x was registered: its files were changed"):
        registry.download_version(f"models:/calrec-{target}/2")


@pytest.mark.parametrize(
    "uri", ["models:/other@champion", "models:/calrec-a", "calrec-a@champion", "models:/calrec-a/x"]
)
def test_what_names_no_version_is_refused(uri: str):
    with pytest.raises(ValueError, match="names no version of a model; give models:/calrec-TARGET@champion"):
        registry.resolve_version(uri)


@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_a_name_that_mlflow_takes_for_a_path_is_refused(name: str):
    with pytest.raises(ValueError, match="the registry takes no / or : in a name"):
        registry.name(name)


def test_look_sees_new_data_and_champions(
    versions: Versions, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    raw = write_sequences(tmp_path / "raw")
    sources = [{"domain": target, "uri": str(raw), "snapshot": ""}]
    first = current.look_up(sources, [target], {}, only_new=True)
    assert first.decision.decision == "train" and first.champions == {}
    versions.settle(state=first.decision.state)
    again = current.look_up(sources, [target], {}, only_new=True)
    assert again.decision.decision == "no new data" and again.sources == first.sources
    assert "watch: no new data" in capsys.readouterr().out
    assert again.champions == {target: registry.champion(target).uri} == current.find_champions(sources).champions
    write_sequences(tmp_path / "raw", users=50)
    later = current.look_up(sources, [target], {}, only_new=True)
    assert later.decision.decision == "train" and later.sources != first.sources


def test_look_sees_that_the_code_is_another_one(
    versions: Versions, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The version string never changes; the commit does."""
    sources = [{"domain": target, "uri": str(write_sequences(tmp_path / "raw")), "snapshot": ""}]
    monkeypatch.setenv("CALREC_COMMIT", "0123abc")
    versions.settle(state=current.look_up(sources, [target], {}, only_new=True).decision.state)
    same = current.look_up(sources, [target], {}, only_new=True).decision
    assert same.decision == "no new data"
    assert any(reason.startswith("code: commit 0123abc, files ") for reason in same.reasons)
    monkeypatch.setenv("CALREC_COMMIT", "4567def")
    other = current.look_up(sources, [target], {}, only_new=True).decision
    assert (other.decision, other.reasons[0]) == ("train", f"{target}: data, settings or code have changed")


def test_a_batch_needs_champions(target: str, tmp_path: Path):
    source = {"domain": target, "uri": str(write_sequences(tmp_path / "raw")), "snapshot": ""}
    with pytest.raises(ValueError, match=rf"no champion of {target}: train them first"):
        current.find_champions([source])


def test_a_server_that_does_not_answer_is_said_and_then_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("CALREC_TRACKING", raising=False)
    monkeypatch.setattr(mlflow_client, "PAUSES", (0.01,))
    source = Source("home", str(write_sequences(tmp_path / "raw")))
    seen = current.look_up([vars(source)], ["home"], {}, only_new=True)
    assert seen.decision.decision == "train" and seen.champions == {"home": NOT_KNOWN}
    assert "tracking: MLflow at http://127.0.0.1:9 failed" in capsys.readouterr().err
    monkeypatch.setenv("CALREC_TRACKING", "required")
    with pytest.raises(mlflow.MlflowException):
        current.look_up([vars(source)], ["home"], {}, only_new=True)
