"""A password in MLFLOW_TRACKING_URI or in a source is in no log, no folder, and nowhere in MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import killing
from tests.conftest import write_sequences

SECRET = "se-cret_9"
STEP = """
from calrec.artifacts import Manifest
from calrec.tracking import runs
from calrec.watch import current
source = "https://me:SECRET@127.0.0.1:9/log.csv?sig=SECRET"
with runs.step("watch") as run:
    seen = current.look_up([{"domain": "d", "uri": source, "snapshot": "1"}], ["d"], {}, False)
    run.log_request(["d"], seen.sources, {}, seen.decision.reasons[-1])
    config = {"domain": "d", "source": source}
    run.record(Manifest("interactions", config=config, files={"a": "0"}), "FOLDER")
    run.note(f"read from {source}")
    print(seen.decision, current.champion_of("d", {"d": "not known"}))
"""


def everything(*command: str, uri: str, folder: Path, required: bool = False) -> str:
    """All that a process prints and leaves."""
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "secrets", "KFP_RUN_ID": folder.name,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "CALREC_TRACKING": "required" if required else "",
    }  # fmt: skip
    code = "from calrec.tracking import mlflow_client\nmlflow_client.PAUSES = (0.01,)\n"
    code += STEP.replace("SECRET", SECRET).replace("FOLDER", str(folder))
    given = ["-m", "calrec.cli", *command] if command else ["-c", code]
    done = subprocess.run([sys.executable, *given], env=environment, capture_output=True, text=True, timeout=120)
    left = [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]
    return "\n".join([done.stdout, done.stderr, *left])


def test_a_server_that_answers_knows_no_secret(server: str, tmp_path: Path):
    from calrec.tracking import runs as tracking

    uri = server.replace("://", f"://me:{SECRET}@")
    said = everything(uri=uri, folder=tmp_path / "answers", required=True)
    assert "https://…@127.0.0.1:9/log.csv?sig=… at 1" in said and SECRET not in said, said
    raw = str(write_sequences(tmp_path / "raw"))
    out = tmp_path / "ingest"
    said = everything(
        "ingest", "--source", raw, "--domain", "d", "--out", f"{out}/d", uri=uri, folder=out, required=True
    )
    assert "39 users" in said and SECRET not in said, said
    client = tracking.client()
    runs = client.search_runs([client.get_experiment_by_name("secrets").experiment_id])
    assert {run.data.tags.get("calrec.step") for run in runs} == {"watch", "ingest", None}
    assert SECRET not in str([run.to_dictionary() for run in runs])
    assert "https://…@127.0.0.1:9/log.csv" in str([run.to_dictionary() for run in runs])


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("how", ["refuses", "is not there"])
def test_a_server_that_does_not_answer_makes_nobody_say_it(server: str, tmp_path: Path, how: str, required: bool):
    with killing.before(server) as proxy:
        proxy.refused = lambda path: True
        uri = {
            "refuses": proxy.url.replace("://", f"://me:{SECRET}@"),
            "is not there": f"http://me:{SECRET}@127.0.0.1:9",
        }[how]
        said = everything(uri=uri, folder=tmp_path / "step", required=required)
        assert ("Traceback" in said) == required and SECRET not in said, said
        assert required or ("tracking: MLflow at " in said and "not known" in said), said
        said = everything("promote", "--target", "d", uri=uri, folder=tmp_path / "promote", required=required)
        assert SECRET not in said and ("127.0.0.1" in said or "503" in said), said


def test_users_and_passwords_go_where_mlflow_reads_them(monkeypatch: pytest.MonkeyPatch):
    from calrec.tracking import mlflow_client

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "other")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me%40shop:a%2Fb:c@host:5000/path")
    mlflow_client.mlflow()
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI")
    assert [os.environ[name] for name in names] == ["me@shop", "a/b:c", "https://host:5000/path"]


def test_an_error_and_those_behind_it_lose_their_secrets():
    from calrec.tracking import mlflow_client

    try:
        try:
            raise FileNotFoundError(2, "no such file", f"https://me:{SECRET}@host/a?sig={SECRET}")
        except FileNotFoundError as first:
            raise ValueError(f"postgresql+psycopg2://me:{SECRET}@host/mlflow is away") from first
    except ValueError as error:
        mlflow_client.clean(error)
        assert str(error) == "postgresql+psycopg2://…@host/mlflow is away"
        assert str(error.__cause__) == "[Errno 2] no such file: 'https://…@host/a?sig=…'"
