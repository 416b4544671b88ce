"""How a version becomes the champion: by its run or by hand, and what a repeated, killed or second run leaves."""

import dataclasses
import multiprocessing
import os
from collections.abc import Iterator

import pytest

from calrec.artifacts import read_manifest
from calrec.cli.__main__ import main
from calrec.system.printing import markdown
from calrec.tracking import promotion, registry, runs
from tests import killing
from tests.tracking.registry.world import Versions, numbers
from tests.versions import RETRIEVE


def test_the_same_things_are_one_version(versions: Versions, target: str):
    versions.settle(promote=False, state="old")
    versions.settle(promote=False, state="new")
    newest = registry.newest(target)
    assert newest and (newest.number, newest.tags[registry.STATE]) == (1, "new")
    versions.settle(4, promote=False)
    assert numbers(target) == (None, 2)


def test_one_that_fails_the_gate_leaves_the_champion(versions: Versions, target: str):
    versions.settle()
    first = registry.champion(target).uri
    said = versions.settle(4, promote=False, rival=first)
    assert said.endswith("version 2 stays the challenger: it did not pass the gate")
    assert numbers(target) == (1, 2)
    assert versions.settle(3, rival=first).endswith("version 3 is the champion, in the place of version 1")
    assert numbers(target) == (3, 3)


def test_a_champion_that_it_was_not_compared_with_stays(versions: Versions, target: str):
    versions.settle()
    said = versions.settle(4, rival=None)
    assert said.endswith(" stays the challenger: another champion was named while this run went on")
    assert numbers(target) == (1, 2)


# --- by hand --------------------------------------------------------------------------------------------------------


def promote(*arguments: str) -> int:
    return main(["promote", *arguments])


def test_a_rollback_is_one_command(versions: Versions, target: str, capsys: pytest.CaptureFixture[str]):
    versions.settle()
    versions.settle(4, rival=registry.champion(target).uri)
    versions.settle(3, rival=registry.champion(target).uri)
    assert promote("--target", target, "--rollback", "--reason", "too many rugs") == 0
    assert "version 2 is the champion again, in the place of version 3: too many rugs" in capsys.readouterr().out
    assert numbers(target) == (2, 3)
    assert promote("--target", target) == 0
    assert " taken back: too many rugs" in capsys.readouterr().out
    assert promote("--target", target, "--rollback", "--reason", "still") == 0
    assert numbers(target) == (1, 3)
    assert promote("--target", target, "--rollback", "--reason", "no way") == 2
    assert "version 1 is the first champion" in capsys.readouterr().err


def test_what_was_taken_back_is_not_promoted_again_by_itself(versions: Versions, target: str):
    versions.settle()
    first = registry.champion(target).uri
    versions.settle(4, rival=first)
    promotion.rollback(target, "too many rugs")
    assert versions.settle(4, rival=first).endswith(" stays the challenger: it was taken back, too many rugs")
    assert numbers(target) == (1, 2)
    promotion.set_champion(target, 2, "rugs are in fashion")
    assert numbers(target) == (2, 2)
    promotion.rollback(target, "no more")
    assert numbers(target) == (1, 2)


def test_a_version_can_be_chosen_and_each_change_stands_in_a_run(
    versions: Versions, target: str, capsys: pytest.CaptureFixture[str]
):
    versions.settle(promote=False)
    assert promote("--target", target, "--version", "1", "--reason", "a person looked at it") == 0
    said = f"calrec-{target} version 1 is the champion by hand: a person looked at it"
    assert said in capsys.readouterr().out.splitlines()
    assert numbers(target) == (1, 1)
    client = runs.client()
    experiment = client.get_experiment_by_name("registry").experiment_id
    (run,) = client.search_runs(
        [experiment], f"tags.`calrec.domain` = '{target}'", order_by=["attributes.start_time DESC"], max_results=1
    )
    assert run.data.tags["mlflow.note.content"] == f"**{markdown(target)}**, by hand: {markdown(said)}"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["decision.md"]
    assert promote("--target", target, "--version", "1", "--reason", "again") == 0
    assert "version 1 is the champion already" in capsys.readouterr().out


def test_the_versions_are_listed(versions: Versions, target: str, capsys: pytest.CaptureFixture[str]):
    versions.settle()
    versions.settle(4, promote=False)
    capsys.readouterr()
    assert promote("--target", target) == 0
    header, second, first = capsys.readouterr().out.splitlines()
    assert header.split()[:1] == ["version"]
    assert second.startswith("2 ") and " challenger " in second and second.endswith("it did not pass the gate")
    assert first.startswith("1 ") and " champion " in first and first.endswith("is the champion, the first one")
    assert "recall_at_5 " in first and read_manifest(versions.made.evaluation).inputs["texts"] in first


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--target", "nothing"], "no model of 'nothing' is registered"),
        (["--target", "nothing", "--rollback", "--reason", "x"], "nothing has no champion"),
        (["--target", "nothing", "--version", "1"], "needs --reason TEXT"),
        (["--target", "nothing", "--version", "7", "--reason", "x"], "calrec-nothing/7: there is no such version"),
        (["--target", "nothing", "--out", "x"], "--out has no meaning with --target"),
        (["--evaluation", "x", "--rollback"], "--rollback has no meaning with --evaluation"),
        (["--evaluation", "x"], "--evaluation needs --out DIR"),
    ],
)
def test_mistakes_are_told(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]):
    assert promote(*arguments) == 2
    assert why in capsys.readouterr().err


def test_without_a_registry_nothing_can_be_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert promote("--target", "home", "--rollback", "--reason", "x") == 2
    assert "MLFLOW_TRACKING_URI is not set" in capsys.readouterr().err


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server: str) -> Iterator[killing.Proxy]:
    with killing.before(server) as proxy:
        yield proxy


def killed(proxy: killing.Proxy, work: object, at: int | str = -1, done: bool = False, how: str = "fork") -> int | None:
    """Exit code of a process that works through the proxy and is killed at a request of it."""
    process = multiprocessing.get_context(how).Process(target=_through, args=(proxy.url, work))
    proxy.begin(lambda: os.kill(process.pid, 9), at, done)
    process.start()
    process.join(120)
    return process.exitcode


def changes(proxy: killing.Proxy) -> list[tuple[int, bool]]:
    """The requests that change something, each before and after it did; between them every moment is like these."""
    found = [at for at, one in enumerate(proxy.seen) if not one.startswith("GET ")]
    assert len(found) > 1, proxy.seen
    return [(at, done) for at in found for done in (False, True)]


def _through(uri: str, work: object) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    work()


@pytest.mark.long
def test_a_promotion_that_is_killed_at_any_change_leaves_one_champion(
    versions: Versions, target: str, proxy: killing.Proxy
):
    versions.settle()
    first = registry.champion(target)
    versions.settle(4, promote=False, rival=first.uri)  # what is slow to write is there

    def again() -> None:
        promotion.register_version(versions.folder(4), [], "s", first.uri, True)

    assert killed(proxy, again) == 0
    assert numbers(target) == (2, 2)
    for at, done in changes(proxy):
        promotion.set_champion(target, 1, "from the beginning")
        runs.client().delete_model_version_tag(f"calrec-{target}", "2", registry.STATE)
        assert killed(proxy, again, at, done) == -9
        champion = registry.champion(target)
        assert champion and champion.number in (1, 2)
        entry = runs.client().get_registered_model(f"calrec-{target}")
        assert list(entry.aliases) == ["challenger", "champion"]
        if registry.STATE in registry.newest(target).tags:
            assert champion.number == 2  # what counts as done is done
        promotion.register_version(versions.folder(4), [], "s", champion.uri, True)  # KFP's retry
        assert numbers(target) == (2, 2)
        assert registry.newest(target).tags[registry.STATE] == "s"


@pytest.mark.long
def test_a_rollback_that_is_killed_at_any_change_leaves_one_champion(
    versions: Versions, target: str, proxy: killing.Proxy
):
    versions.settle()
    versions.settle(4, rival=registry.champion(target).uri)

    def back() -> None:
        promotion.rollback(target, "a try")

    assert killed(proxy, back) == 0
    for at, done in changes(proxy):
        promotion.set_champion(target, 2, "from the beginning")
        assert killed(proxy, back, at, done) == -9
        assert registry.champion(target).number in (1, 2)
        if registry.champion(target).number == 2:
            promotion.rollback(target, "again")
        assert numbers(target) == (1, 2)


@pytest.mark.long
def test_one_that_is_killed_while_it_is_registered_is_registered_by_the_next_try(
    versions: Versions, target: str, proxy: killing.Proxy
):
    versions.settle(4)
    points = [("PUT ", True), ("model-versions/create", False), ("model-versions/create", True)]
    for k, (at, done) in enumerate(points, 6):
        before = registry.newest(target).number
        again = Again(versions, registry.champion(target).uri, k)
        assert killed(proxy, again, at, done, "spawn") == -9
        assert numbers(target) == (before, before + (at == "model-versions/create" and done))
        again()
        assert numbers(target) == (before + 1, before + 1)


@dataclasses.dataclass
class Again:
    """A run whose model passed the gate, in a process of its own."""

    versions: Versions
    rival: str
    k: int = RETRIEVE.k

    def __call__(self) -> None:
        self.versions.settle(self.k, rival=self.rival)


def test_without_a_server_nothing_happens(versions: Versions, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert promotion.register_version(versions.folder(), [], "s", None, True) == ""
    assert not registry.available() and registry.download_version("") is None
