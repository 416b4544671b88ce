"""The connection to the pipeline API against the contract server: what it survives, and what it says."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.kubeflow import connection
from pipelines.kubeflow.auth import Auth, guess_method
from pipelines.kubeflow.connection import Kubeflow, RefusedError, Settings, UnreachableError, connect, name_filter
from tests.pipelines.kfp_api import faults
from tests.pipelines.kfp_api.server import KfpApi, State, serving


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the cluster or the identity of the person who runs it."""
    for name in ("KFP_TOKEN", "KFP_COOKIE", "KFP_HOST", "KFP_NAMESPACE", "KFP_IAP_CLIENT_ID", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with serving() as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def kubeflow(api: KfpApi, pauses: list[float]) -> Kubeflow:
    return connect(Settings(host=api.url), sleep=pauses.append)


def experiments(kubeflow: Kubeflow) -> Any:
    return kubeflow.ask(lambda: kubeflow.experiments.experiment_service_list_experiments(), "list experiments")


def make(kubeflow: Kubeflow, name: str) -> Any:
    import kfp_server_api

    body = kfp_server_api.V2beta1Experiment(display_name=name)

    def find() -> Any:
        listed = kubeflow.experiments.experiment_service_list_experiments(filter=name_filter(name))
        return listed.experiments[0] if listed.experiments else None

    return kubeflow.ask(lambda: kubeflow.experiments.experiment_service_create_experiment(body), f"make {name}", find)


def test_five_errors_in_a_row_are_waited_for_with_growing_pauses(
    api: KfpApi, kubeflow: Kubeflow, pauses: list[float], capsys: pytest.CaptureFixture[str]
):
    api.faults.append(faults.status(500, times=5))
    assert experiments(kubeflow).experiments in ([], None)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 15.0]
    said = capsys.readouterr().err
    assert "500 upstream connect error" in said and "trying again in 15 s" in said
    assert said.endswith("the server answers again\n")


def test_patience_ends(api: KfpApi, kubeflow: Kubeflow, pauses: list[float]):
    api.faults.append(faults.status(503, times=1000))
    with pytest.raises(UnreachableError, match="cannot list experiments: .*503 upstream connect error"):
        experiments(kubeflow)
    assert 240 < sum(pauses) <= connection.PATIENCE_S + 60


def test_a_restart_of_the_server_is_survived(api: KfpApi):
    gone: list[float] = []

    def sleep(seconds: float) -> None:
        gone.append(seconds)
        if len(gone) == 4:
            api.start()

    kubeflow = connect(Settings(host=api.url), sleep)
    api.stop()
    assert experiments(kubeflow).experiments in ([], None)
    assert len(gone) == 4


def test_retry_after_is_obeyed(api: KfpApi, kubeflow: Kubeflow, pauses: list[float]):
    api.faults.append(faults.status(429, retry_after="7"))
    api.faults.append(faults.status(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"))
    experiments(kubeflow)
    assert pauses == [7.0, 2.0]


def test_a_slow_answer_is_given_up_and_asked_for_again(
    api: KfpApi, kubeflow: Kubeflow, pauses: list[float], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "TIMEOUT_S", 1)
    api.faults.append(faults.slow(2.5))
    experiments(kubeflow)
    assert pauses == [1.0]


@pytest.mark.parametrize("fault", [faults.drop("POST"), faults.lose("POST"), faults.garbage("POST")])
def test_what_was_made_before_the_answer_was_lost_is_not_made_twice(
    api: KfpApi, kubeflow: Kubeflow, fault: faults.Fault
):
    api.faults.append(fault)
    assert make(kubeflow, "calrec").display_name == "calrec"
    assert len(api.state.experiments) == 1
    posts = [request for request in api.requests if request.verb == "POST"]
    assert len(posts) == (2 if fault.kind == "drop" else 1)


def test_a_token_that_was_rotated_is_read_again(api: KfpApi, tmp_path: Path, pauses: list[float]):
    (tmp_path / "token").write_text("old\n")
    api.tokens = {"old"}
    kubeflow = connect(Settings(host=api.url, auth=Auth("token", str(tmp_path / "token"))), pauses.append)
    api.tokens = {"new"}
    (tmp_path / "token").write_text("new\n")
    experiments(kubeflow)
    assert pauses == []
    api.tokens = {"other"}
    with pytest.raises(RefusedError, match="401 Unauthenticated.*is wrong or has expired; put a fresh one there"):
        experiments(kubeflow)


def test_the_projected_token_is_renewed_without_a_refusal(api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert guess_method("", "") == "none"
    (tmp_path / "token").write_text("first")
    assert guess_method("", "") == "service-account"
    api.tokens = {"first"}
    kubeflow = connect(Settings(host=api.url, auth=Auth("service-account")))
    api.tokens = {"second"}
    (tmp_path / "token").write_text("second")
    experiments(kubeflow)
    assert [request.status for request in api.requests] == [200, 200]


def test_a_cookie_passes_the_proxy(api: KfpApi, monkeypatch: pytest.MonkeyPatch):
    api.cookies = {"authservice_session=abc"}
    with pytest.raises(RefusedError, match="401.*give --auth token"):
        connect(Settings(host=api.url))
    monkeypatch.setenv("KFP_COOKIE", "authservice_session=abc")
    assert guess_method("", "") == "cookie"
    assert connect(Settings(host=api.url, auth=Auth("cookie"))).namespace == ""


def test_what_is_set_decides_the_method(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KFP_COOKIE", "a=b")
    assert guess_method("", "client") == "iap"
    monkeypatch.setenv("KFP_TOKEN", "t")
    assert guess_method("", "client") == guess_method("file", "") == "token"


def test_iap_hands_the_client_ids_to_kfp(monkeypatch: pytest.MonkeyPatch):
    from pipelines.kubeflow.auth import client_arguments

    monkeypatch.setenv("KFP_IAP_OTHER_CLIENT_ID", "desktop")
    monkeypatch.setenv("KFP_IAP_OTHER_CLIENT_SECRET", "hidden")
    given = client_arguments(Auth("iap", iap_client_id="proxy"))
    assert given == {"client_id": "proxy", "other_client_id": "desktop", "other_client_secret": "hidden"}


def test_a_login_page_is_no_answer(api: KfpApi):
    api.faults.append(faults.garbage(times=2))
    with pytest.raises(RefusedError, match="likely a login page; the server wants to know who asks"):
        connect(Settings(host=api.url))


def test_a_redirect_to_a_login_is_no_answer(api: KfpApi):
    api.faults.append(faults.status(302, body="<a href='/dex/auth'>Found</a>"))
    with pytest.raises(RefusedError, match="302 .*; the server wants to know who asks"):
        connect(Settings(host=api.url))


def test_a_missing_right_names_the_namespace(api: KfpApi):
    kubeflow = connect(Settings(host=api.url, namespace="shop"))
    api.faults.append(faults.status(403, times=2, body=json.dumps({"error": "no", "code": 7, "message": "no rights"})))
    with pytest.raises(RefusedError, match="403 no rights; this identity has no right to do so in namespace shop"):
        experiments(kubeflow)


@pytest.mark.parametrize("status", [401, 403])
def test_what_was_allowed_before_is_asked_again_when_it_is_refused(
    api: KfpApi, kubeflow: Kubeflow, pauses: list[float], status: int
):
    """A gateway, or Kubernetes behind it, has started anew and does not know tokens and roles yet."""
    assert experiments(kubeflow) is not None
    api.faults.append(faults.status(status, times=4))
    assert experiments(kubeflow) is not None
    assert pauses == [1.0, 2.0, 4.0]  # one try more, with the token read anew, has no pause before it
    api.faults.append(faults.status(status, times=100))
    with pytest.raises(RefusedError, match=f"answered {status} upstream.*(has no right|give --auth)") as refusal:
        experiments(kubeflow)
    assert refusal.value.status == status and len(pauses) > 10


def test_no_server_is_said_soon(pauses: list[float]):
    with pytest.raises(UnreachableError, match="Connection refused; check --host.*kubectl port-forward"):
        connect(Settings(host="http://127.0.0.1:9"), pauses.append)
    assert pauses == [1.0, 2.0]


def test_a_wrong_path_is_said(api: KfpApi):
    api.faults.append(faults.status(404, body="404 page not found"))
    with pytest.raises(RefusedError, match="404 page not found.*behind Kubeflow's dashboard it is https://HOST/pipe"):
        connect(Settings(host=api.url))


def test_many_users_need_a_namespace():
    with serving(state=State(multi_user=True)) as api:
        with pytest.raises(ValueError, match="give --namespace or KFP_NAMESPACE"):
            connect(Settings(host=api.url))
        kubeflow = connect(Settings(host=api.url, namespace="shop"))
        assert kubeflow.scope == {"namespace": "shop"}


def test_a_refusal_is_not_repeated(api: KfpApi, kubeflow: Kubeflow, pauses: list[float]):
    with pytest.raises(RefusedError, match="404 ResourceNotFoundError: .*x not found") as refusal:
        kubeflow.ask(lambda: kubeflow.runs.run_service_get_run("x"), "look at run x")
    assert refusal.value.status == 404 and pauses == []


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed; it makes a certificate")
def test_tls_without_trust_names_the_option(tmp_path: Path):
    import ssl
    import subprocess
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"https://localhost:{server.server_port}"
        with pytest.raises(RefusedError, match="CERTIFICATE_VERIFY_FAILED.*give the authority's file with --ca"):
            connect(Settings(host=url))
        with pytest.raises(RefusedError, match="404"):  # trusted: it is only no pipeline API
            connect(Settings(host=url, ca=str(tmp_path / "crt")))
        server.shutdown()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "kubeflow.shop"}, "--host must start with http:// or https://, got 'kubeflow.shop'"),
        ({"host": "http://x", "ca": "none.pem"}, "--ca must be a file of certificates"),
        ({"auth": Auth("token")}, "--auth token needs to know the server; give --host"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_a_secret_that_is_not_there(tmp_path: Path):
    for auth, message in [
        (Auth("token"), "neither is set"),
        (Auth("token", str(tmp_path / "none")), "No such file or directory; write the token there"),
        (Auth("cookie"), "from KFP_COOKIE, which is not set"),
    ]:
        with pytest.raises(ValueError, match=message):
            connect(Settings(host="http://127.0.0.1:9", auth=auth))


def test_no_cluster_at_all():
    with pytest.raises(ValueError, match="no Kubeflow Pipelines server is known; give --host"):
        connect(Settings())


def test_links_go_to_the_ui(api: KfpApi):
    assert connect(Settings(host=api.url)).link("runs/details/1") == f"{api.url}/#/runs/details/1"
    ui = connect(Settings(host=api.url, ui="https://kubeflow.shop/pipeline/"))
    assert ui.link("runs/details/1") == "https://kubeflow.shop/pipeline/#/runs/details/1"
