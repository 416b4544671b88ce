"""The registry on a real MLflow server: versions, the champion, and what a repeated or cut-off run leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calrec import lookout, registry, tracking
from calrec.artifacts import file_hash, read_manifest
from calrec.config import GenerateConfig, RetrieveConfig, Source
from calrec.retrieve import stored
from tests.conftest import write_sequences

SETTINGS = {"generate": GenerateConfig(samples=3, threads=1), "retrieve": RetrieveConfig(k=5, threads=1)}


@pytest.fixture
def target(mlflow_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A category of the test's own."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "registry")
    monkeypatch.setenv("CALREC_TRACKING", "required")
    mlflow.set_tracking_uri(mlflow_server)
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture(scope="module")
def folders(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    index = tmp_path_factory.mktemp("registry") / "index"
    stored.build(small.texts, small.tokens, small.base, "home", index, SETTINGS["retrieve"])
    return {"model": small.base, "index": index}


def settle(
    target: str, folders: dict[str, Path], promote: bool, rival: str | None = None, state: str = "s", **change: Any
):
    with tracking.step("promote", target):
        registry.settle(target, folders, {**SETTINGS, **change}, state, rival, promote)


def numbers(target: str) -> tuple[int | None, int | None]:
    champion, newest = registry.champion(target), registry.newest(target)
    return champion and champion.number, newest and newest.number


def test_nothing_is_registered_at_first(target: str):
    assert numbers(target) == (None, None)


def test_a_version_is_whole_and_opens_on_another_machine(target: str, folders: dict[str, Path]):
    from calrec.recommend.champion import opened

    settle(target, folders, promote=True)
    version = registry.champion(target)
    assert version and version.number == 1 and version.tags[registry.STATE] == "s"
    champion = opened(registry.fetched(version.source))
    assert (champion.generate, champion.retrieve) == (SETTINGS["generate"], SETTINGS["retrieve"])
    for part, folder in folders.items():
        manifest = read_manifest(getattr(champion, part))
        assert manifest == read_manifest(folder)
        assert all(file_hash(getattr(champion, part) / name) == hashed for name, hashed in manifest.files.items())


def test_the_same_things_are_one_version(target: str, folders: dict[str, Path]):
    settle(target, folders, promote=False, state="old")
    settle(target, folders, promote=False, state="new")
    newest = registry.newest(target)
    assert newest and (newest.number, newest.tags[registry.STATE]) == (1, "new")
    settle(target, folders, promote=False, retrieve=RetrieveConfig(k=6, threads=1))
    assert numbers(target) == (None, 2)


def test_one_that_fails_the_gate_leaves_the_champion(target: str, folders: dict[str, Path]):
    settle(target, folders, promote=True)
    first = registry.champion(target)
    settle(target, folders, promote=False, rival=first.source, retrieve=RetrieveConfig(k=6, threads=1))
    assert numbers(target) == (1, 2)
    settle(target, folders, promote=True, rival=first.source, retrieve=RetrieveConfig(k=7, threads=1))
    assert numbers(target) == (3, 3)


def test_a_champion_that_it_was_not_compared_with_stays(
    target: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    settle(target, folders, promote=True)
    settle(target, folders, promote=True, rival=None, retrieve=RetrieveConfig(k=6, threads=1))
    assert numbers(target) == (1, 2)
    assert "version 2, which stays the challenger: another champion was named" in capsys.readouterr().out


def test_a_run_that_is_cut_off_before_its_end_is_not_taken_for_done(
    target: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    client = type(tracking.client())
    with monkeypatch.context() as broken:
        broken.setattr(client, "set_registered_model_alias", lambda *_: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(OSError, match="cut"):
            settle(target, folders, promote=True)
    newest = registry.newest(target)
    assert newest and registry.STATE not in newest.tags and registry.champion(target) is None
    settle(target, folders, promote=True)  # the retry
    assert numbers(target) == (1, 1)


def test_without_a_server_nothing_happens(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry.settle("home", folders, SETTINGS, "s", None, True)
    assert not registry.available() and registry.fetched(None) is None


@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_a_name_that_mlflow_takes_for_a_path_is_refused(name: str):
    with pytest.raises(ValueError, match="the registry takes no / or : in a name"):
        registry.name(name)


def test_look_sees_new_data_and_champions(
    target: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    raw = write_sequences(tmp_path / "raw")
    sources = [{"domain": target, "uri": str(raw), "snapshot": ""}]
    first = lookout.look(sources, [target], {}, only_new=True)
    assert first.decision.decision == "train" and first.champions == {}
    settle(target, folders, promote=True, state=first.decision.state)
    again = lookout.look(sources, [target], {}, only_new=True)
    assert again.decision.decision == "no new data" and again.sources == first.sources
    assert "watch: no new data" in capsys.readouterr().out
    assert again.champions == {target: registry.champion(target).source} == lookout.find(sources).champions
    write_sequences(tmp_path / "raw", users=50)
    later = lookout.look(sources, [target], {}, only_new=True)
    assert later.decision.decision == "train" and later.sources != first.sources


def test_a_batch_needs_champions(target: str, tmp_path: Path):
    source = {"domain": target, "uri": str(write_sequences(tmp_path / "raw")), "snapshot": ""}
    with pytest.raises(ValueError, match=rf"no champion of {target}: train them first"):
        lookout.find([source])


def test_a_server_that_does_not_answer_is_said_and_then_everything_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("CALREC_TRACKING", raising=False)
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    source = Source("home", str(write_sequences(tmp_path / "raw")))
    seen = lookout.look([vars(source)], ["home"], {}, only_new=True)
    assert seen.decision.decision == "train" and seen.champions == {}
    assert "tracking: MLflow at http://127.0.0.1:9 failed" in capsys.readouterr().err
    monkeypatch.setenv("CALREC_TRACKING", "required")
    with pytest.raises(mlflow.MlflowException):
        lookout.look([vars(source)], ["home"], {}, only_new=True)
