"""TrainJobs through the API of Kubernetes: made once, adopted, waited for, deleted; what is refused has a remedy."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from calrec.config import LaunchConfig
from calrec.launch import kubernetes
from calrec.launch.kubernetes import Cluster, UnseenError
from calrec.launch.trainjob import resource
from tests.conftest import REPO
from tests.launch.trainer_api import ROLE, TRAINJOBS, Api, Fault, connected, write_kubeconfig

BODY = resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob"))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with connected(tmp_path, monkeypatch) as server:
        yield server


def hurried() -> Cluster:
    return Cluster(lambda _: None)


# --- the life of a job ------------------------------------------------------------------------------------------


def test_a_job_that_ended_makes_room_for_a_new_one_of_its_name(api: Api):
    jobs = hurried()
    for kind in ("Complete", "Failed"):
        jobs.begin(BODY)
        api.end("one", kind)
    assert api.requests == ["create one", "create one", "get one", "delete one", "create one", "get one", "create one"]
    assert not api.orphans


def test_a_retry_finds_the_running_job_of_the_first_attempt(api: Api, capsys: pytest.CaptureFixture[str]):
    hurried().begin(BODY)
    jobs = hurried()
    jobs.begin(BODY)
    assert api.requests == ["create one", "create one", "get one"]
    assert "TrainJob one runs already; waiting for it" in capsys.readouterr().out
    api.message = "done"
    api.end("one", "Complete")
    assert jobs.wait("one") == ("Complete", "done")


def test_a_job_that_is_being_deleted_is_gone_before_the_next_one(api: Api, capsys: pytest.CaptureFixture[str]):
    """Its pods may still write their last checkpoint."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            pod.end(1)

    jobs = Cluster(sleep)
    jobs.begin(BODY)
    pod = api.pod("one").start()
    api.jobs["one"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    first = api.jobs["one"]["metadata"]["uid"]
    jobs.begin(BODY)
    assert len(looks) == 4 and api.jobs["one"]["metadata"]["uid"] != first and not api.orphans
    assert capsys.readouterr().out.count("of an earlier attempt is being deleted") == 1


def test_a_suspended_job_is_waited_for_with_ever_longer_pauses(api: Api, capsys: pytest.CaptureFixture[str]):
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            api.resume("one")
        if len(pauses) == 12:
            api.end("one", "Complete")

    jobs = Cluster(sleep)
    jobs.begin(BODY)
    api.suspend("one", "no room in the queue")
    assert jobs.wait("one")[0] == "Complete"
    assert pauses == pytest.approx([min(0.1 * 1.5**n, 1.0) for n in range(12)])
    assert capsys.readouterr().out == "TrainJob one: suspended, no room in the queue\nTrainJob one: running\n"


def test_a_job_without_pods_does_not_seem_to_run(api: Api, capsys: pytest.CaptureFixture[str]):
    jobs = Cluster(lambda _: api.end("one", "Failed"))
    jobs.begin(BODY)
    assert jobs.wait("one")[0] == "Failed"
    assert capsys.readouterr().out == "TrainJob one: waiting for its pods to start\n"


def test_a_job_that_someone_deletes_is_not_waited_for_for_ever(api: Api):
    jobs = Cluster(lambda _: api.jobs.clear())
    jobs.begin(BODY)
    with pytest.raises(ChildProcessError, match="TrainJob one was deleted by someone else; run the same command again"):
        jobs.wait("one")
    jobs.give_up("one")  # is not there; no error


# --- a server in trouble ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [500, 503, 429, "drop", "lost", "slow"])
@pytest.mark.parametrize("verb", ["create", "get", "delete"])
def test_a_request_that_fails_is_repeated_and_the_job_is_made_once(
    api: Api, monkeypatch: pytest.MonkeyPatch, verb: str, kind: int | str
):
    monkeypatch.setattr(kubernetes, "TIMEOUT_S", 0.3)
    jobs = Cluster(lambda _: None if api.jobs["one"].get("status") else api.end("one", "Complete"))
    api.faults = [Fault(verb, kind)]
    hurried().begin(BODY)
    uid = api.jobs["one"]["metadata"]["uid"]
    assert jobs.wait("one")[0] == "Complete"
    assert api.jobs["one"]["metadata"]["uid"] == uid
    jobs.give_up("one")
    assert not api.faults and api.jobs["one"]["metadata"]["deletionTimestamp"] and not api.orphans


def test_a_server_that_stays_away_is_an_error_in_the_end(api: Api, capsys: pytest.CaptureFixture[str]):
    pauses: list[float] = []
    api.faults = [Fault(verb, 503) for verb in ("create", "delete") for _ in range(8)]
    jobs = Cluster(pauses.append)
    with pytest.raises(UnseenError, match=r"did not answer, or refused, 8 times in a row: \(503\)"):
        jobs.begin(BODY)
    assert pauses == pytest.approx([0.1 * 2**n for n in range(8)])
    jobs.give_up("one")  # what could not be deleted is no second error
    assert "TrainJob one is still in the cluster: the API of Kubernetes did not answer" in capsys.readouterr().err


@pytest.mark.parametrize("answers", [[401] * 3, [403] * 3, [401, 403, 404, 503, 401, 403, 401]])
@pytest.mark.parametrize("verb", ["get", "delete", "create"])
def test_a_server_that_starts_anew_and_knows_nobody_yet_is_waited_for(
    api: Api, capsys: pytest.CaptureFixture[str], verb: str, answers: list[int]
):
    """After a restart it answers 401 and 403 for seconds, and 404 where it does not know TrainJobs yet."""
    jobs = hurried()
    jobs.begin(BODY)
    api.message = "done"
    api.starting = [one for one in answers if one != 503]
    if verb == "get":
        api.end("one", "Complete")
        assert jobs.wait("one") == ("Complete", "done")
    elif verb == "delete":
        jobs.give_up("one")
        assert api.jobs["one"]["metadata"]["deletionTimestamp"]
    else:
        jobs.begin({**BODY, "metadata": {"name": "two"}})
        assert "two" in api.jobs
    assert not api.starting
    shown = capsys.readouterr()
    assert shown.out.count("a request that was allowed before is refused, trying again") == 1 and not shown.err


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_that_stays_is_an_error_with_its_remedy_in_the_end(api: Api, status: int):
    pauses: list[float] = []
    jobs = Cluster(pauses.append)
    jobs.begin(BODY)
    api.starting = [status] * 100
    remedy = "log in again" if status == 401 else "the Role of manifests/components/trainjob"
    with pytest.raises(UnseenError, match=f"refused, 8 times in a row: .*{remedy}"):
        jobs.wait("one")
    assert pauses == pytest.approx([0.1 * 2**n for n in range(8)])


def test_a_first_refusal_is_no_pause(api: Api):
    api.starting = [403]
    with pytest.raises(PermissionError, match="cannot create resource"):
        Cluster(lambda _: pytest.fail("a pause")).begin(BODY)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["create", "get", "delete"])
def test_a_right_that_is_missing_is_named_with_its_manifest(api: Api, verb: str):
    """Of one who may make jobs a later refusal may pass, and so becomes an error only after a while."""
    jobs = hurried()
    api.allowed.remove((verb, TRAINJOBS))
    error = PermissionError if verb == "create" else UnseenError
    with pytest.raises(error, match=f"cannot {verb} resource .*the Role of manifests/components/trainjob"):
        jobs.begin(BODY)
        jobs.wait("one") if verb == "get" else jobs._delete("one")


def test_a_token_that_has_expired_is_said(api: Api, tmp_path: Path):
    write_kubeconfig(tmp_path / "kubeconfig", api, token="old")
    with pytest.raises(PermissionError, match=r"does not know who asks \(Unauthorized\); the token .*log in again"):
        hurried().begin(BODY)


def test_a_cluster_without_trainer_is_said(api: Api):
    api.installed = False
    with pytest.raises(ValueError, match=r"no TrainJobs in this cluster .*install Kubeflow Trainer v2"):
        hurried().begin(BODY)


def test_a_namespace_that_is_not_there_is_said(api: Api, tmp_path: Path):
    write_kubeconfig(tmp_path / "kubeconfig", api, namespace="shops")
    with pytest.raises(ValueError, match=r'no namespace for the TrainJob: namespaces "shops" not found'):
        hurried().begin(BODY)


@pytest.mark.parametrize("runtime", ["torch-distribute", "TrainingRuntime/torch-distributed"])
def test_a_runtime_that_is_not_there_is_no_missing_right(api: Api, runtime: str):
    """Trainer's webhook refuses with 403, as a missing right is."""
    body = resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob", runtime=runtime))
    with pytest.raises(
        ValueError, match=r'launch.runtime is not in this cluster: .*"torch-distribut.*kubectl get clus'
    ):
        hurried().begin(body)
    hurried().begin({**body, "spec": {**body["spec"], "runtimeRef": {**BODY["spec"]["runtimeRef"]}}})


def test_other_refusals_are_passed_on(api: Api):
    with pytest.raises(ValueError, match=r"TrainJob refused, create: .*metadata.name.*check launch.runtime"):
        hurried().begin({**BODY, "metadata": {"name": "One"}})
    with pytest.raises(ValueError, match=r"TrainJob refused, create: .*fields that it does not know"):
        hurried().begin({**BODY, "spec": {**BODY["spec"], "nodes": 2}})


def test_without_a_cluster_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no cluster for the TrainJob .*set KUBECONFIG"):
        Cluster()


# --- what it needs ----------------------------------------------------------------------------------------------


def test_the_role_in_the_manifests_is_what_the_step_asks_for():
    folder = REPO / "manifests" / "components" / "trainjob"
    if not folder.exists():
        pytest.skip("manifests/components/trainjob is not there yet")
    documents = [d for path in sorted(folder.glob("*.yaml")) for d in yaml.safe_load_all(path.read_text()) if d]
    rules = [rule for document in documents if document["kind"] == "Role" for rule in document["rules"]]
    given = {
        (verb, f"{kind}.{group}" if group else kind)
        for rule in rules
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == ROLE, f"differ in {sorted(ROLE ^ given)}"
    assert all(rule.get("resourceNames") is None for rule in rules)


def test_neither_the_kubeflow_sdk_is_needed_nor_is_anything_loaded_early():
    code = (
        "import sys; sys.modules['kubeflow'] = sys.modules['kubeflow_trainer_api'] = None\n"
        "from calrec.launch import trainjob\n"
        "print([name for name in ('kubernetes', 'urllib3', 'torch') if name in sys.modules])\n"
        "from calrec.launch.kubernetes import Cluster\n"
        "try: Cluster()\n"
        "except ValueError as error: print(error)"
    )
    environment = {**os.environ, "KUBECONFIG": "/nowhere"}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert re.match(r"\[\]\nno cluster for the TrainJob", made.stdout), made.stdout + made.stderr
