"""`schedule` with the API: what is made and changed, what a kill leaves, and the command."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

from calrec.config import Source
from calrec.config.runs import get_run
from pipelines.__main__ import main
from pipelines.kubeflow import changes, cron, recurring, submission
from pipelines.kubeflow.changes import Create, next_step
from pipelines.kubeflow.connection import Kubeflow, Settings, connect
from pipelines.kubeflow.recurring import Recurring, Wanted
from tests.pipelines.firings import DAILY, LATER, MONTHLY, NOW, fire_next
from tests.pipelines.kfp_api import faults
from tests.pipelines.kfp_api.server import KfpApi, State, serving
from tests.pipelines.small import IMAGE


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("KFP_", "KF_PIPELINES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


# --- with the API ---------------------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with serving() as server:
        yield server
    assert server.violations == []


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def nothing(n: int) -> int:
        return n

    @dsl.pipeline(name="calrec-training")
    def training(n: int = 1, data: dict = {}):  # noqa: B006
        nothing(n=n)

    path = tmp_path_factory.mktemp("compiled") / "calrec-training.yaml"
    compiler.Compiler().compile(training, str(path))
    return path


def connected(api: KfpApi) -> Kubeflow:
    return connect(Settings(host=api.url), sleep=lambda seconds: None)


def asked(kubeflow: Kubeflow, compiled: Path, when: str = DAILY, name: str = "nightly", **parameters: Any) -> Wanted:
    """A wish that the server knows the parts of."""
    version = submission.pipeline_version(kubeflow, "calrec-training", compiled)
    return Wanted(name, cron.parse_cron(when), version, submission.experiment(kubeflow, "calrec"), parameters)


def apply(kubeflow: Kubeflow, wanted: Wanted) -> tuple[Recurring, list[str]]:
    said: list[str] = []
    return changes.apply(kubeflow, wanted, said.append), said


def kept(api: KfpApi) -> list[dict[str, Any]]:
    return list(api.state.recurring_runs.values())


def test_what_is_made(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    made, said = apply(kubeflow, replace(asked(kubeflow, compiled, n=2, data={"a": [1]}), service_account="trainer"))
    (one,) = kept(api)
    assert made.id == one["recurring_run_id"] and said == []
    assert apply(kubeflow, replace(asked(kubeflow, compiled, n=2, data={"a": [1]}), service_account="trainer"))[1] == [
        "nothing to do"
    ]
    assert one["display_name"] == "nightly"
    assert one["trigger"] == {"cron_schedule": {"cron": cron.parse_cron(DAILY).text}}
    assert (one["mode"], one["max_concurrency"], one["no_catchup"]) == ("ENABLE", "1", True)
    assert one["runtime_config"] == {"parameters": {"n": 2, "data": {"a": [1]}}}
    assert one["service_account"] == "trainer"
    assert one["pipeline_version_reference"]["pipeline_version_id"] in api.state.versions
    assert one["experiment_id"] in api.state.experiments


def test_ten_times_is_once(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    wanted = asked(kubeflow, compiled, n=2)
    ids = {apply(kubeflow, wanted)[0].id for _ in range(10)}
    assert len(ids) == len(kept(api)) == 1
    assert [name for name in api.operations if "create_recurring" in name] == [
        "recurring_run_service_create_recurring_run"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cron": cron.parse_cron(LATER)}, "cron"),
        ({"parameters": {"n": 3, "data": {"a": 1}}}, "data null → "),
        ({"service_account": "trainer"}, "service account default → trainer"),
        ({"experiment_id": "other"}, "experiment"),
        ({"version": "other"}, "pipeline version → calrec-training-"),
    ],
)
def test_a_change_is_made(api: KfpApi, compiled: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    kubeflow = connected(api)
    first = asked(kubeflow, compiled, n=2)
    before, _ = apply(kubeflow, first)
    if "experiment_id" in change:
        change = {"experiment_id": submission.experiment(kubeflow, "other")}
    if "version" in change:
        (tmp_path / "other.yaml").write_text(compiled.read_text().replace("python:3.11", "python:3.12"))
        change = {"version": submission.pipeline_version(kubeflow, "calrec-training", tmp_path / "other.yaml")}
    after, words = apply(kubeflow, replace(first, **change))
    (one,) = recurring.of_name(kubeflow, "nightly")
    assert one == after and one.id != before.id and one.enabled
    assert one.firings(NOW)[0] == replace(first, **change).cron.next(NOW)[0]  # no start time is left that matters
    assert before.id in one.after
    assert said in words[0]
    deletions = [request for request in api.requests if request.verb == "DELETE"]
    assert deletions and all(request.query == {"propagation_policy": ["ORPHAN"]} for request in deletions)
    assert apply(kubeflow, replace(first, **change)) == (after, ["nothing to do"])


def test_a_change_waits_for_a_firing_that_is_near(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    soon = datetime.now(UTC) + timedelta(seconds=8)
    apply(kubeflow, asked(kubeflow, compiled, when=f"{soon:%S %M %H} * * *"))
    said: list[str] = []
    slept: list[float] = []
    changes.apply(kubeflow, asked(kubeflow, compiled, when=DAILY), said.append, slept.append)
    assert (
        said[0]
        == f"waiting until {soon + changes.AFTER:%H:%M:%S} UTC: a firing is near, and must be neither lost nor doubled"
    )
    assert len(slept) == 1 and slept[0] > changes.AFTER.seconds
    assert len(states(api)) == 1 and states(api)[0].cron == cron.parse_cron(DAILY).text


def test_paused_stays_paused(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    made, _ = apply(kubeflow, asked(kubeflow, compiled, n=2))
    recurring.switch(kubeflow, made, on=False)
    api.requests.clear()
    after, _ = apply(kubeflow, asked(kubeflow, compiled, n=3))
    assert [one["mode"] for one in kept(api)] == ["DISABLE"] and not after.enabled
    assert not any("enable" in name for name in api.operations)


def test_others_are_left_alone(api: KfpApi, compiled: Path) -> None:
    """Other names, on all pages, and the same one in capitals; one of this name by other hands is refused."""
    kubeflow = connected(api)
    made, _ = apply(kubeflow, asked(kubeflow, compiled))
    for name in ["NIGHTLY", *(f"n{i}" for i in range(120))]:
        other = {"recurring_run_id": name, "display_name": name}
        api.state.recurring_runs[name] = api.state.recurring_runs[made.id] | other
    apply(kubeflow, asked(kubeflow, compiled, when=LATER))
    assert len(kept(api)) == len(recurring.all_names(kubeflow)) == 122
    for one in kept(api):
        one["description"] = "by hand"
    with pytest.raises(ValueError, match="that `schedule apply` has not made; take another name, or delete it"):
        apply(kubeflow, asked(kubeflow, compiled))
    assert len(kept(api)) == 122


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Nth(faults.Fault):
    """Hits the nth request for recurring runs."""

    nth: int = 0

    def hits(self, verb: str, path: str) -> bool:
        if "/recurringruns" not in path or self.times == 0:
            return False
        self.nth -= 1
        return self.nth == 0


def states(api: KfpApi) -> list[Recurring]:
    return recurring.of_name(connected(api), "nightly")


@pytest.mark.parametrize("kind", ["lose", "drop"])
@pytest.mark.parametrize(("before", "after"), [("", DAILY), (DAILY, DAILY), (DAILY, LATER), (LATER, DAILY)])
def test_killed_at_every_request(compiled: Path, kind: str, before: str, after: str) -> None:
    """Whichever request is the last one, exactly one fires next, and the next apply leaves the right one alone."""
    for nth in itertools.count(1):
        with serving() as api:
            kubeflow = connected(api)
            if before:
                apply(kubeflow, asked(kubeflow, compiled, when=before, n=1))
            wanted = asked(kubeflow, compiled, when=after, n=2)

            def die(seconds: float) -> None:
                raise Killed

            dying = connect(Settings(host=api.url), sleep=die)
            api.faults.append(Nth(kind, nth=nth))
            try:
                apply(dying, wanted)
                break  # it had no further request
            except Killed:
                found = states(api)
                assert len(fire_next(found)) == 1 if before or found else nth <= 2
                apply(kubeflow, wanted)
                (one,) = states(api)
                assert changes.differences(one, wanted) == []
                assert one.firings(NOW)[0] == wanted.cron.next(NOW)[0]
                assert api.violations == []
    assert nth > (3 if not before else 5)


@pytest.mark.parametrize("verb", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize("fault", [faults.lose, faults.drop, faults.status])
def test_lost_answers(api: KfpApi, compiled: Path, verb: str, fault: Any) -> None:
    kubeflow = connected(api)
    kubeflow.say = lambda text: None
    apply(kubeflow, asked(kubeflow, compiled, n=1))
    code = {"code": 503} if fault is faults.status else {}
    api.faults.append(fault(on=f"{verb} /apis/v2beta1/recurringruns", times=3, **code))
    after, _ = apply(kubeflow, asked(kubeflow, compiled, n=2))
    assert states(api) == [after]
    assert api.state.recurring_runs[after.id]["runtime_config"]["parameters"] == {"n": 2}


def test_the_first_answer_is_lost(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    kubeflow.say = lambda text: None
    api.faults.append(faults.lose(on="POST /apis/v2beta1/recurringruns"))
    apply(kubeflow, asked(kubeflow, compiled))
    assert len(kept(api)) == 1
    assert sum("create_recurring" in name for name in api.operations) == 1  # found, not made again


_APPLY = """
import json, sys
from pipelines.kubeflow import changes, cron
from pipelines.kubeflow.connection import Settings, connect
from pipelines.kubeflow.recurring import Wanted
from pipelines.kubeflow.submission import Version
url, when, version, experiment, parameters = json.loads(sys.argv[1])
wanted = Wanted("nightly", cron.parse_cron(when), Version(*version), experiment, parameters)
changes.apply(connect(Settings(host=url)), wanted, print)
"""


def process(api: KfpApi, wanted: Wanted, when: str) -> "subprocess.Popen[bytes]":
    version = wanted.version
    known = [version.pipeline_id, version.version_id, version.name, True]
    facts = json.dumps([api.url, when, known, wanted.experiment_id, wanted.parameters])
    return subprocess.Popen([sys.executable, "-c", _APPLY, facts], stderr=subprocess.PIPE)


@pytest.mark.parametrize("nth", [2, 4, 6, 8])
def test_sigkill(api: KfpApi, compiled: Path, nth: int) -> None:
    """A process that is killed after its 1st POST, its 1st DELETE, its 2nd POST, its 2nd DELETE."""
    kubeflow = connected(api)
    apply(kubeflow, asked(kubeflow, compiled, n=1))
    wanted = asked(kubeflow, compiled, n=2)
    api.faults.append(Nth("lose", nth=nth))
    with process(api, wanted, DAILY) as applying:
        while api.faults[0].times:
            assert applying.poll() is None, (applying.stderr or sys.stderr).read()
            time.sleep(0.001)
        applying.send_signal(signal.SIGKILL)  # while it pauses before it asks again
        assert applying.wait() == -signal.SIGKILL
    assert len(fire_next(states(api))) == 1
    apply(kubeflow, wanted)
    (one,) = states(api)
    assert changes.differences(one, wanted) == []


def test_processes_at_the_same_time(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    wanted = asked(kubeflow, compiled, n=2)
    for _ in range(2):  # they make the first one; they change it
        running = [process(api, wanted, DAILY) for _ in range(2)]
        assert [one.wait() for one in running] == [0, 0]
        (one,) = states(api)
        assert changes.differences(one, wanted) == []
        wanted = replace(wanted, parameters={"n": 3})


def test_threads_with_different_wishes(compiled: Path) -> None:
    for _ in range(4):
        with serving() as api:
            kubeflow = connected(api)
            wishes = [
                asked(kubeflow, compiled, when=when, n=n) for n, when in enumerate((DAILY, LATER, DAILY, MONTHLY))
            ]
            apply(kubeflow, wishes[0])
            won: list[Wanted] = []

            def wishing(wanted: Wanted, kubeflow: Kubeflow, won: list[Wanted] = won) -> None:
                try:
                    apply(kubeflow, wanted)
                    won.append(wanted)
                except RuntimeError as error:
                    assert "another apply changed it meanwhile" in str(error)

            threads = [threading.Thread(target=wishing, args=(wish, connected(api))) for wish in wishes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            (one,) = states(api)
            assert any(changes.differences(one, wanted) == [] for wanted in won)


def test_a_server_that_keeps_it_otherwise_is_said(api: KfpApi, compiled: Path) -> None:
    kubeflow = connected(api)
    made, _ = apply(kubeflow, asked(kubeflow, compiled, n=1))
    assert changes.next_step([made], asked(kubeflow, compiled, n=1), NOW) is None
    with pytest.raises(RuntimeError, match="n 1 → 2"):
        changes.next_step([made], asked(kubeflow, compiled, n=2), NOW, made=True)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(api: KfpApi, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, what was printed, and what was printed as an error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["schedule", *words, "--host", api.url])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


Command = Callable[..., tuple[int, str, str]]


def parameters(api: KfpApi) -> dict[str, Any]:
    (one,) = kept(api)
    found: dict[str, Any] = one["runtime_config"]["parameters"]
    return found


def test_apply_compiles_uploads_and_schedules(api: KfpApi, command: Command) -> None:
    code, shown, said = command("apply", "nightly", "--cron", DAILY, "--set", "stage1.steps=7")
    assert code == 0 and "not named by a digest: what later runs do may change" in said
    first = cron.parse_cron(DAILY).next(datetime.now(UTC))
    assert [f"{one:%Y-%m-%d %H:%M:%S} UTC" in shown for one in first] == [True] * 3
    given = parameters(api)
    assert given["only_new"] is True
    assert given["stage1"]["steps"] == 7
    assert {source["snapshot"] for source in given["sources"]} == {""}
    assert "version     calrec-training-" in shown and "#/recurringrun/details/" in shown

    code, shown, _ = command("apply", "nightly", "--cron", DAILY, "--set", "stage1.steps=7")
    assert "nothing to do" in shown and "known to the server" in shown and len(api.state.versions) == 2
    api.state.fire(kept(api)[0]["recurring_run_id"])
    code, shown, _ = command("apply", "nightly", "--cron", DAILY, "--every-run", "--experiment", "other")
    assert "only_new true → false; stage1.steps 7 → " in shown
    assert "from before the change, goes on" in shown
    assert parameters(api)["only_new"] is False
    assert {one["display_name"] for one in api.state.experiments.values()} == {"calrec", "other"}


def test_batch(api: KfpApi, command: Command) -> None:
    assert command("apply", "offers", "batch", "--cron", DAILY, "--image", IMAGE)[::2] == (0, "")
    assert "only_new" not in parameters(api)
    assert {one["name"].startswith("calrec-batch") for one in api.state.versions.values()} == {True}
    code, _, said = command("apply", "offers", "batch", "--cron", DAILY, "--every-run")
    assert code == 2 and "--every-run is for training" in said


def test_other_pods_are_another_version(api: KfpApi, command: Command) -> None:
    usual = ["apply", "offers", "batch", "--cron", DAILY, "--image", IMAGE]
    assert command(*usual)[0] == 0
    before = parameters(api)
    code, shown, _ = command(*usual, "--set", "cluster.infer_gpus=1")
    assert code == 0 and re.search(r"offers: changing pipeline version → calrec-batch-[0-9a-f]{12}\n", shown)
    (one,) = kept(api)
    version = api.state.versions[one["pipeline_version_reference"]["pipeline_version_id"]]
    assert parameters(api) == before and "'resourceCount': '1'" in str(version["pipeline_spec"])
    assert "nothing to do" in command(*usual, "--set", "cluster.infer_gpus=1")[1]


def test_its_life(api: KfpApi, compiled: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no schedules; make one" in command("list")[1]
    kubeflow = connected(api)
    made, _ = apply(kubeflow, asked(kubeflow, compiled))
    run = api.state.fire(made.id)
    apply(kubeflow, asked(kubeflow, compiled, when=LATER))
    apply(kubeflow, asked(kubeflow, compiled, name="other"))
    api.state.runs[run["run_id"]]["state"] = "FAILED"

    code, shown, _ = command("list")
    head, nightly, other = shown.splitlines()
    assert code == 0 and head.split()[:3] == ["NAME", "CRON", "NEXT"]
    assert cron.parse_cron(LATER).text in nightly and " on " in nightly and "calrec-training-" in nightly
    assert f"{cron.parse_cron(LATER).next(datetime.now(UTC))[0]:%Y-%m-%d %H:%M:%S}" in nightly
    assert "failed, " in nightly  # of its predecessor
    assert "none yet" in other

    assert command("pause", "nightly")[0] == 0
    assert " paused " in command("list")[1]
    assert [one.enabled for one in states(api)] == [False]
    assert "makes up for the last one at once" in command("resume", "nightly")[1]
    assert "was not paused" in command("resume", "nightly")[1]
    for action in ("pause", "resume", "delete"):
        code, _, said = command(action, "nights")
        assert (code, said) == (2, "calrec: error: there is no schedule 'nights'; known: nightly, other\n")

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert command("delete", "nightly")[:2] == (1, "nightly stays\n")
    assert command("delete", "nightly", "--yes")[0] == 0
    assert [one["display_name"] for one in kept(api)] == ["other"]
    assert api.requests[-1].query == {"propagation_policy": ["ORPHAN"]}
    assert len(api.state.runs) == 1


def test_an_unfinished_change_is_shown_paused_and_finished(api: KfpApi, compiled: Path, command: Command) -> None:
    kubeflow = connected(api)
    apply(kubeflow, asked(kubeflow, compiled, n=1))
    wanted = asked(kubeflow, compiled, n=2)
    step = next_step(states(api), wanted, NOW)
    assert isinstance(step, Create)
    recurring.create(kubeflow, wanted, "m", step.number, step.enabled, step.start, step.after)
    assert "nightly: a change was not finished (2 recurring runs); run its schedule apply again" in command("list")[1]
    assert command("pause", "nightly")[0] == 0
    assert not any(one.enabled for one in states(api))
    assert "a change that was not finished" in command("resume", "nightly")[2]
    apply(kubeflow, wanted)
    assert command("resume", "nightly")[0] == 0
    assert [one.enabled for one in states(api)] == [True]
    assert "not finished" not in command("list")[1]


def test_a_schedule_made_by_hand_is_listed(api: KfpApi, compiled: Path, command: Command) -> None:
    kubeflow = connected(api)
    made, _ = apply(kubeflow, asked(kubeflow, compiled))
    one = api.state.recurring_runs[made.id]
    one |= {"trigger": {"periodic_schedule": {"interval_second": "60"}}, "description": "", "runtime_config": {}}
    one["pipeline_version_reference"].pop("pipeline_version_id")
    assert "no cron" in command("list")[1] and "latest" in command("list")[1]
    one["pipeline_version_reference"]["pipeline_version_id"] = "gone"
    assert "gone (deleted)" in command("list")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nightly", "--cron", "0 3 31 2 *"], "would never fire"),
        (["my nights", "--cron", DAILY], "got 'my nights'"),
        (["nightly", "--cron", DAILY, "--target", "nowhere"], "'nowhere' is not a category"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(api: KfpApi, command: Command, words: list[str], said: str) -> None:
    code, _, error = command("apply", *words)
    assert code == 2 and said in error
    assert api.requests == []


def test_a_frozen_snapshot_is_refused(api: KfpApi, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = (Source("books", "gs://shop/books", snapshot="2026-11-01"),)
    monkeypatch.setattr(
        "calrec.cli.options.get_run", lambda name: replace(get_run(name), sources=frozen, targets=("books",))
    )
    code, _, error = command("apply", "nightly", "--cron", DAILY)
    assert code == 2 and "source 'books' has snapshot '2026-11-01'" in error and "leave it empty" in error
    assert api.requests == []


def test_a_namespace_of_many(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(state=State(multi_user=True)) as api:
        kubeflow = connect(Settings(host=api.url, namespace="shop"))
        apply(kubeflow, asked(kubeflow, compiled))
        apply(kubeflow, asked(kubeflow, compiled, n=2))
        (one,) = kept(api)
        assert one["namespace"] == "shop"
        for namespace, shown in (("shop", "nightly"), ("other", "no schedules")):
            assert main(["schedule", "list", "--host", api.url, "--namespace", namespace]) == 0
            assert shown in capsys.readouterr().out
        assert api.violations == []
