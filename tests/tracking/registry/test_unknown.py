"""What the registry does not say is another thing than none, for one target and for all."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from calrec.artifacts import NOT_KNOWN
from calrec.cli.__main__ import main
from calrec.tracking import mlflow_client as store
from calrec.tracking import registry, runs
from calrec.watch import current
from tests import killing
from tests.conftest import write_sequences
from tests.tracking.registry.world import Versions, numbers


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[killing.Proxy]:
    """Between the test and the server; tracking is not required."""
    with killing.before(server) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.delenv("CALREC_TRACKING")
        monkeypatch.setattr(store, "PAUSES", (0.01, 0.02))
        yield proxy


def sources(target: str, folder: Path) -> list[dict[str, str]]:
    return [{"domain": target, "uri": str(write_sequences(folder)), "snapshot": ""}]


def test_one_target_that_is_not_known_hides_no_other(
    versions: Versions, target: str, proxy: killing.Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    versions.settle()
    proxy.refused = lambda path: "calrec-ill" in path
    there = sources(target, tmp_path / "raw")
    seen = current.look_up(there, [target, "ill", "new"], {}, only_new=True)
    assert seen.champions == {target: registry.champion(target).uri, "ill": NOT_KNOWN}
    assert seen.decision.reasons[:3] == (
        f"{target}: data, settings or code have changed",
        "ill: the registry did not say which data its newest model is of",
        "new: no model yet",
    )
    assert "503" in capsys.readouterr().err
    with pytest.raises(ConnectionError, match="which model of ill is in use is not known: .*503"):
        current.find_champions([*there, {**there[0], "domain": "ill"}])


def test_a_hiccup_while_the_run_began_is_made_good(versions: Versions, target: str, proxy: killing.Proxy):
    versions.settle()
    left = [2]

    def twice(path: str) -> bool:
        left[0] -= "registered-models/get" in path
        return "registered-models/get" in path and left[0] >= 0

    proxy.refused = twice
    assert current.champion_of(target, {target: NOT_KNOWN}) == registry.champion(target).uri
    proxy.refused = lambda path: True
    assert current.champion_of(target, {target: NOT_KNOWN}) == NOT_KNOWN
    assert current.champion_of(target, {}) == ""
    assert current.champion_of(target, {target: "models:/calrec-x/3"}) == "models:/calrec-x/3"


def test_a_hiccup_while_it_is_promoted_is_borne(versions: Versions, target: str, proxy: killing.Proxy):
    versions.settle()
    rival = registry.champion(target).uri
    left = [2]

    def twice(path: str) -> bool:
        left[0] -= "model-versions/set-tag" in path
        return "model-versions/set-tag" in path and left[0] >= 0

    proxy.refused = twice
    assert versions.settle(4, rival=rival) == f"calrec-{target} version 2 is the champion, in the place of version 1"


def test_one_that_was_not_compared_is_not_promoted_and_not_taken_for_judged(versions: Versions, target: str):
    versions.settle()
    rival = registry.champion(target).uri
    said = versions.settle(4, rival=NOT_KNOWN, state="new")
    assert said.endswith(
        "version 2 stays the challenger: it was not compared with version 1, since the registry did not answer when it "
        "was judged"
    )
    assert registry.STATE not in registry.newest(target).tags
    assert versions.settle(4, rival=rival, state="new").endswith("version 2 is the champion, in the place of version 1")
    assert registry.newest(target).tags[registry.STATE] == "new"


@pytest.mark.long
def test_one_that_missed_the_newest_champion_is_not_taken_for_judged(versions: Versions, target: str):
    versions.settle()
    versions.settle(4, rival=None, state="new")
    assert registry.STATE not in registry.newest(target).tags


def test_the_first_of_a_target_needs_no_comparison(versions: Versions, target: str):
    assert versions.settle(rival=NOT_KNOWN).endswith("is the champion, the first one")


def leave_an_alias(model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The alias that a server leaves when it is set while the version is deleted."""
    for database in tmp_path_factory.getbasetemp().glob("mlflow*/mlflow.db"):  # of each server; one has the model
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as store:
            store.execute(
                "INSERT OR REPLACE INTO registered_model_aliases (workspace, name, alias, version) "
                "SELECT workspace, name, 'champion', 1 FROM registered_models WHERE name = ?",
                [model],
            )
            store.commit()


@pytest.mark.long
def test_an_alias_on_a_deleted_version_is_no_champion_and_hides_no_other(
    versions: Versions,
    target: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
):
    versions.settle()
    versions.settle(4, promote=False)
    other = f"{target} 2"
    Versions(versions.made, other, tmp_path / "other").settle()
    runs.client().delete_model_version(f"calrec-{target}", "1")
    leave_an_alias(f"calrec-{target}", tmp_path_factory)
    assert runs.client().get_registered_model(f"calrec-{target}").aliases["champion"] == "1"
    assert current.look_up([], [target, other], {}, only_new=True).champions == {other: f"models:/calrec-{other}/1"}
    said = "was version 1, which was deleted; there is none until"
    assert said in capsys.readouterr().err
    assert numbers(target) == (None, 2)
    assert main(["promote", "--target", target, "--version", "2", "--reason", "the first was deleted"]) == 0
    assert numbers(target) == (2, 2)


@pytest.mark.long
def test_the_place_of_a_deleted_champion_is_taken_by_the_next_that_passes(versions: Versions, target: str):
    versions.settle()
    gone = registry.champion(target).uri
    runs.client().delete_model_version(f"calrec-{target}", "1")
    assert versions.settle(4, rival=gone).endswith(
        "stays the challenger: version 1, with which it was compared, is gone, and no other is the champion"
    )
    assert registry.STATE not in registry.newest(target).tags
    assert versions.settle(4).endswith("version 2 is the champion, the first one")
