"""`calrec submit` and `status` against the contract server, in this process and as a person runs it."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.compiling import arguments
from pipelines.kubeflow import connection, following
from tests.pipelines.kfp_api import faults
from tests.pipelines.kfp_api.server import KfpApi, State, Task, serving
from tests.pipelines.small import IMAGE, compiled

REPO = Path(__file__).parents[2]
# The command in a process of its own, with short pauses.
QUICK = """
import sys
from pipelines.__main__ import main
from pipelines.kubeflow import connection, following
connection.PAUSES_S, following.POLL_S = (0.05,) * 14, 0.05
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("KFP_", "KF_PIPELINES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(connection, "PAUSES_S", (0.01,) * 14)
    monkeypatch.setattr(following, "POLL_S", 0.01)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    with serving() as server:
        monkeypatch.setenv("KFP_HOST", server.url)
        yield server


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def submit(pipeline: Path) -> Callable[..., int]:
    return lambda *more: main(["submit", "--file", str(pipeline), *more])


@pytest.fixture
def terminal(api: KfpApi, pipeline: Path) -> "Terminal":
    return Terminal(api, pipeline)


def only(things: dict[str, Any]) -> Any:
    (thing,) = things.values()
    return thing


def test_a_run_is_submitted_and_followed_to_its_end(
    submit: Callable[..., int], api: KfpApi, capsys: pytest.CaptureFixture[str]
):
    assert submit("--name", "nightly", "--service-account", "trainer") == 0
    run, version = only(api.state.runs), list(api.state.versions.values())[-1]
    assert run["display_name"] == "nightly" and run["service_account"] == "trainer"
    assert re.fullmatch(r"calrec-training-[0-9a-f]{12}", version["name"])
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert only(api.state.experiments)["display_name"] == "calrec" and "plugins_input" not in run
    shown = capsys.readouterr().out
    assert f"version     {version['name']} (uploaded)" in shown
    assert f"page        {api.url}/#/runs/details/{run['run_id']}" in shown
    assert re.search(r"\d\d:\d\d:\d\d  Textify +running", shown) and "nightly: succeeded" in shown


def test_the_same_pipeline_is_uploaded_once(
    submit: Callable[..., int], api: KfpApi, capsys: pytest.CaptureFixture[str]
):
    assert submit("--no-wait") == submit("--no-wait") == 0
    assert (len(api.state.runs), len(api.state.versions), len(api.state.experiments)) == (2, 2, 1)
    shown = capsys.readouterr().out
    assert "(known to the server)" in shown and "it runs without this command" in shown
    assert api.operations.count("run_service_get_run") == 0


def test_an_experiment_of_the_same_name_in_capitals_is_another_one(submit: Callable[..., int], api: KfpApi):
    assert submit("--no-wait", "--experiment", "Shop") == submit("--no-wait", "--experiment", "shop") == 0
    assert sorted(one["display_name"] for one in api.state.experiments.values()) == ["Shop", "shop"]


def test_a_pipeline_is_compiled_and_gets_its_parameters(api: KfpApi, capsys: pytest.CaptureFixture[str]):
    from calrec.config import runs
    from calrec.config.overrides import override

    chosen = ["--run", "tiny", "--set", "stage1.steps=7", "--image", IMAGE, "--only-new", "--mlflow-plugin"]
    assert main(["submit", "training", *chosen, "--no-wait"]) == 0
    run = only(api.state.runs)
    wanted = arguments("training", override(runs.tiny(), ["stage1.steps=7"]), True)
    assert run["runtime_config"]["parameters"] == wanted and wanted["stage1"]["steps"] == 7
    assert run["plugins_input"] == {"mlflow": {"experiment_name": "calrec"}}
    assert all(IMAGE in str(version["pipeline_spec"]) for version in api.state.versions.values())
    assert "digest" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--image", "shop/Calrec:1"], "--image must name an image"),
        (["--cache-claim", "a/b"], "--cache-claim must be a name of Kubernetes"),
        (["--service-account", "Trainer"], "--service-account must be a name of Kubernetes"),
        (["--namespace", "my_shop"], "--namespace must be a namespace of Kubernetes"),
        (["--set", "batch.destination=https://me:hunter2@host/x"], "parameters: https://…@host/x has a user"),
    ],
)
def test_what_kubernetes_would_refuse_or_show_is_refused_before_anything_is_sent(
    api: KfpApi, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["submit", "batch", "--run", "tiny", "--no-wait", *given]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "hunter2" not in shown
    assert api.operations == []


def test_what_pods_get_is_in_the_version_and_no_parameter(api: KfpApi):
    assert main(["submit", "batch", "--run", "tiny", "--image", IMAGE, "--no-wait"]) == 0
    more = ["--set", "cluster.infer_memory=64Gi"]
    assert main(["submit", "batch", "--run", "tiny", "--image", IMAGE, "--no-wait", *more]) == 0
    first, second = api.state.runs.values()
    assert first["runtime_config"] == second["runtime_config"]
    versions = [run["pipeline_version_reference"]["pipeline_version_id"] for run in (first, second)]
    given = ["64Gi" in str(api.state.versions[one]["pipeline_spec"]) for one in versions]
    assert given == [False, True] and not any("memory" in key for key in second["runtime_config"]["parameters"])


def test_an_image_without_a_digest_is_warned_of(api: KfpApi, capsys: pytest.CaptureFixture[str]):
    assert main(["submit", "batch", "--run", "tiny", "--image", "shop/calrec:1", "--no-wait"]) == 0
    assert "shop/calrec:1 is not named by a digest: what it means may change" in capsys.readouterr().err
    assert only(api.state.pipelines)["display_name"] == "calrec-batch"


@pytest.mark.parametrize("end", ["FAILED", "CANCELED", "SKIPPED"])
def test_the_exit_code_tells_the_end(
    submit: Callable[..., int], api: KfpApi, end: str, capsys: pytest.CaptureFixture[str]
):
    api.run_script([("textify", "FAILED" if end == "FAILED" else "SUCCEEDED")], end=end)
    assert submit() == (1 if end == "FAILED" else 3)
    shown = capsys.readouterr().out
    assert f": {end.lower()}, " in shown
    command = f"Textify failed\n    calrec logs {only(api.state.runs)['run_id']} 'Textify'"
    assert (command in shown) == (end == "FAILED")


def test_time_that_is_up_leaves_the_run(submit: Callable[..., int], api: KfpApi, capsys: pytest.CaptureFixture[str]):
    api.state.scripts.append([("RUNNING", [Task("textify", "RUNNING")])])
    assert submit("--timeout", "0.2") == 4
    assert f"the run goes on; see calrec status {only(api.state.runs)['run_id']}" in capsys.readouterr().err
    assert only(api.state.runs)["state"] == "RUNNING"


def test_five_errors_in_a_row_at_every_request(submit: Callable[..., int], api: KfpApi):
    requests = "healthz", "GET .*pipelines", "upload$", "upload_version", "experiments", "POST .*runs$", "GET .*runs/"
    for operation in requests:
        api.faults.append(faults.status(500, on=operation, times=5))
    assert submit() == 0
    assert len(api.state.runs) == 1 and all(fault.times == 0 for fault in api.faults)


@pytest.mark.parametrize("on", ["POST .*/pipelines/upload$", "upload_version", "POST .*/experiments$", "POST .*/runs$"])
@pytest.mark.parametrize("kind", ["lose", "drop", "garbage", "busy"])
def test_whatever_answer_is_lost_there_is_one_of_each(submit: Callable[..., int], api: KfpApi, on: str, kind: str):
    made = {"busy": lambda on: faults.status(429, on=on, times=3, retry_after="0")}.get(kind) or getattr(faults, kind)
    api.faults.append(made(on=on))
    assert submit("--name", "twice") == submit("--name", "twice") == 0
    assert (len(api.state.pipelines), len(api.state.versions), len(api.state.experiments)) == (1, 2, 1)
    assert len(api.state.runs) == 2  # one for each command, of the same name
    assert api.faults[0].times == 0


def test_a_slow_answer_after_a_run_was_made_is_not_another_run(
    submit: Callable[..., int], api: KfpApi, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "TIMEOUT_S", 1)
    monkeypatch.setattr(connection, "PAUSES_S", (4.0,) * 14)
    api.faults.append(faults.slow(1.5, on="POST .*/runs$"))
    assert submit("--no-wait") == 0
    assert len(api.state.runs) == 1


def test_another_submission_may_be_faster(submit: Callable[..., int], api: KfpApi):
    refused = '{"error_message": "Already exist error: the name already exists", "error_details": ""}'
    api.faults.append(faults.status(409, on="upload_version", body=refused))
    assert submit("--no-wait") == 2  # 409, and it is nowhere: an error
    assert submit("--no-wait") == 0

    threads = [threading.Thread(target=submit, args=("--no-wait", "--experiment", "new")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.state.runs) == 4 and len(api.state.versions) == 2 and len(api.state.experiments) == 2


def at_look(api: KfpApi, number: int, then: Callable[[], None]) -> None:
    """Do something once the run has been looked at so many times."""

    def watch() -> None:
        while api.operations.count("run_service_get_run") < number:
            time.sleep(0.005)
        then()

    threading.Thread(target=watch, daemon=True).start()


def endless_run(api: KfpApi) -> None:
    api.state.scripts.append([("RUNNING", [Task("textify", "RUNNING")])])


def end_run(api: KfpApi) -> None:
    api.hold(only(api.state.runs)["run_id"], ("SUCCEEDED", [Task("textify")]))


def test_a_restart_in_the_middle(
    submit: Callable[..., int], api: KfpApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(connection, "PAUSES_S", (0.1,) * 14)
    endless_run(api)

    def restart() -> None:
        api.stop()
        time.sleep(0.4)
        end_run(api)
        api.start()

    at_look(api, 5, restart)
    assert submit() == 0
    assert "trying again" in capsys.readouterr().out and len(api.state.runs) == 1


def test_a_token_that_expires_in_the_middle(
    submit: Callable[..., int], api: KfpApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "token").write_text("old")
    api.tokens = {"old"}
    endless_run(api)

    def rotate() -> None:
        (tmp_path / "token").write_text("new")
        api.tokens = {"new"}
        end_run(api)

    at_look(api, 5, rotate)
    assert submit("--token-file", str(tmp_path / "token")) == 0
    assert 401 in [request.status for request in api.requests]
    assert api.requests[-1].headers["authorization"] == "Bearer new"


def test_a_token_that_stays_expired(
    submit: Callable[..., int], api: KfpApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "token").write_text("old")
    api.tokens = {"old"}
    endless_run(api)
    at_look(api, 3, lambda: setattr(api, "tokens", {"new"}))
    assert submit("--token-file", str(tmp_path / "token")) == 2
    said = capsys.readouterr().err
    assert "the run goes on" in said and "put a fresh one there" in said


def test_many_users(submit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with serving(state=State(multi_user=True), tokens={"t"}) as api:
        monkeypatch.setenv("KFP_HOST", api.url)
        monkeypatch.setenv("KFP_TOKEN", "t")
        assert submit() == 2
        assert "give --namespace" in capsys.readouterr().err
        assert submit("--namespace", "shop", "--public-url", "https://ui.shop") == 0
        assert only(api.state.experiments)["namespace"] == only(api.state.pipelines)["namespace"] == "shop"
        assert "https://ui.shop/#/runs/details/" in capsys.readouterr().out
        assert main(["status", "--namespace", "shop"]) == 0


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--set", "stage1.steps=3"], "--file is submitted as it is; leave out --set, or --file"),
        (["--image", "x"], "leave out --image"),
        (["--run", "paper"], "leave out --run"),
        (["batch"], "leave out batch"),
        (["--cache-claim", "x"], "leave out --cache-claim"),
        (["--host", "kubeflow"], "--host must start with http"),
        (["--host", "http://127.0.0.1:9"], "Connection refused"),
    ],
)
def test_mistakes_are_said(
    submit: Callable[..., int], api: KfpApi, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert submit(*given) in (1, 2)
    assert message in capsys.readouterr().err and not api.state.runs


def test_a_pipeline_with_faults_is_not_uploaded(
    api: KfpApi, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "bad.yaml").write_text(pipeline.read_text().replace("name: comp-textify", "name: comp-nothing"))
    assert main(["submit", "--file", str(tmp_path / "bad.yaml")]) == 2
    assert re.search(r"error: bad\.yaml has \d+ faults:\n", capsys.readouterr().err) and not api.requests


def test_what_the_server_refuses_is_quoted(submit: Callable[..., int], api: KfpApi, capsys: pytest.CaptureFixture[str]):
    said = '{"error": "x", "code": 3, "message": "Invalid input error: the experiment is archived"}'
    api.faults.append(faults.status(400, on="POST .*/runs$", body=said))
    assert submit() == 2
    assert "cannot create the run: " in (text := capsys.readouterr().err) and "400 Invalid input error: the exp" in text


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


class Terminal:
    """`submit` in a terminal of its own: keys go in, what is shown comes out."""

    def __init__(self, api: KfpApi, pipeline: Path, tty: bool = True):
        api.state.scripts.append([("RUNNING", [Task("textify", "RUNNING")])])
        environment = {**os.environ, "KFP_HOST": api.url, "COLUMNS": "100", "LINES": "30"}
        command = [sys.executable, "-c", QUICK, "submit", "--file", str(pipeline)]
        self.shown = ""
        if tty:
            self.process_id, self.terminal = pty.fork()
            if not self.process_id:
                os.chdir(REPO)
                os.execve(sys.executable, command, environment)
        else:
            reading, writing = os.pipe()
            process = subprocess.Popen(
                command, cwd=REPO, env=environment, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing
            )
            os.close(writing)
            self.process_id, self.terminal = process.pid, reading
        self.until("running")

    def until(self, text: str) -> None:
        """Read until a text has been shown."""
        for _ in range(600):
            if text in self.shown:
                return
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    part = os.read(self.terminal, 2**16)
                except OSError:
                    part = b""
                if not part:
                    break
                self.shown += part.decode(errors="replace")
        assert text in self.shown, self.shown

    def press(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def code(self) -> int:
        """Read to the end; the exit code."""
        while True:
            try:
                part = os.read(self.terminal, 2**16)
            except OSError:
                break
            if not part:
                break
            self.shown += part.decode(errors="replace")
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])


def test_ctrl_c_and_leave(api: KfpApi, terminal: "Terminal"):
    terminal.press(b"\x03")
    terminal.until("leave it running or terminate it? [l/t]")
    terminal.press(b"l\n")
    assert terminal.code() == 130
    run = only(api.state.runs)
    assert run["state"] == "RUNNING" and f"calrec status {run['run_id']}" in terminal.shown


def test_ctrl_c_and_terminate(api: KfpApi, terminal: "Terminal"):
    terminal.press(b"\x03")
    terminal.until("[l/t]")
    terminal.press(b"t\n")
    assert terminal.code() == 3
    assert only(api.state.runs)["state"] == "CANCELED" and ": canceled, " in terminal.shown


def test_a_second_ctrl_c_leaves_at_once(api: KfpApi, terminal: "Terminal"):
    terminal.press(b"\x03")
    terminal.until("[l/t]")
    terminal.press(b"\x03")
    assert terminal.code() == 130
    assert only(api.state.runs)["state"] == "RUNNING" and "the run goes on" in terminal.shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_without_a_terminal_a_signal_leaves(api: KfpApi, pipeline: Path, number: int, code: int):
    terminal = Terminal(api, pipeline, tty=False)
    os.kill(terminal.process_id, number)
    assert terminal.code() == code
    assert only(api.state.runs)["state"] == "RUNNING" and "the run goes on" in terminal.shown


def test_sigterm_in_a_terminal_leaves(api: KfpApi, terminal: "Terminal"):
    os.kill(terminal.process_id, signal.SIGTERM)
    assert terminal.code() == 143
    assert only(api.state.runs)["state"] == "RUNNING" and "[l/t]" not in terminal.shown


# --- status and links -----------------------------------------------------------------------------------------------


def test_status_lists_the_newest_runs_and_shows_one(
    submit: Callable[..., int], api: KfpApi, capsys: pytest.CaptureFixture[str]
):
    assert main(["status"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    for name in ("first", "second", "third"):
        api.run_script([("textify", "FAILED")], end="FAILED")
        assert submit("--name", name) == 1
    capsys.readouterr()
    assert main(["status", "--last", "2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["RUN", "STATE", "AGE", "DURATION", "NAME"]
    assert [row.split()[-1] for row in rows] == ["third", "second"] and all(" failed " in row for row in rows)
    assert main(["status", rows[0].split()[0]]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"failed +0 s\n", shown) and "third: failed" in shown and "/#/runs/details/" in shown


def test_status_of_what_is_not_there(api: KfpApi, capsys: pytest.CaptureFixture[str]):
    assert main(["status", "nothing"]) == 2
    assert "there is no run 'nothing'; calrec status lists them" in capsys.readouterr().err
    assert main(["status", "--last", "0"]) == 2


def test_a_deleted_version_costs_only_the_names(
    submit: Callable[..., int], api: KfpApi, capsys: pytest.CaptureFixture[str]
):
    assert submit() == 0
    api.state.versions.clear()
    assert main(["status", only(api.state.runs)["run_id"]]) == 0
    assert "textify" in capsys.readouterr().out


def test_the_run_in_mlflow_is_found_by_its_tag(
    submit: Callable[..., int],
    api: KfpApi,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    assert submit() == 0
    assert "MLflow page" not in capsys.readouterr().out
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("calrec")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("calrec")
    pipeline_run = only(api.state.runs)["run_id"]
    run = client.create_run(experiment_id, tags={"kfp.run_id": pipeline_run})
    assert main(["status", pipeline_run]) == 0
    link = f"{mlflow_server}/#/experiments/{experiment_id}/runs/{run.info.run_id}"
    assert f"MLflow page {link}" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["status", pipeline_run]) == 0
