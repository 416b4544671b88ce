"""The test server of the KFP API: its contract is that of kfp_server_api, and the official client works with it."""

import http.client
import inspect
import json
import pkgutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import pytest
import yaml
from kfp_server_api import ApiException

from pipelines.compiling import load
from tests.compiled import compiled
from tests.pipelines.kfp_api import faults
from tests.pipelines.kfp_api.contract import OPERATIONS, ContractError, check
from tests.pipelines.kfp_api.rules import Refused, check_cron
from tests.pipelines.kfp_api.server import KfpApi, State, Task, serving

V2 = "/apis/v2beta1"


def training() -> str:
    """Path of the compiled pipeline."""
    return str(compiled("training"))


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with serving() as api:
        yield api


def plain(api: KfpApi, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of one request, without a client library."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api.url + path, data, {"Content-Type": "application/json", **headers}, method=verb)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def uploaded(api: KfpApi) -> dict[str, str]:
    """A reference to the version of a pipeline that was just uploaded."""
    pipeline = kfp.Client(host=api.url).upload_pipeline(training(), "calrec")
    (version,) = api.state.versions
    return {"pipeline_id": pipeline.pipeline_id, "pipeline_version_id": version}


# The contract


def test_every_operation_of_the_client_package_is_known():
    names = set()
    for module in pkgutil.iter_modules(kfp_server_api.api.__path__):
        (service,) = [
            one
            for _, one in inspect.getmembers(getattr(kfp_server_api.api, module.name), inspect.isclass)
            if one.__name__.endswith("Api")
        ]
        names |= {f"{name}_with_http_info" for name in vars(service)} & set(vars(service))
    assert {f"{one.name}_with_http_info" for one in OPERATIONS} == names and len(names) > 30
    assert len({(one.verb, one.path) for one in OPERATIONS}) == len(OPERATIONS)


def test_every_type_of_the_operations_and_models_can_be_checked():
    kinds = {kind for one in OPERATIONS for kind in [one.answer, one.body, *one.query.values()] if kind}
    for _, model in inspect.getmembers(kfp_server_api.models, inspect.isclass):
        kinds |= set(model.openapi_types.values())
    for kind in kinds:
        for value in ("", 0, [], {}, True, None, "2026-01-01T00:00:00Z"):
            try:
                check(kind, value, "here")
            except ContractError as error:
                assert str(error).startswith("here")


@pytest.mark.parametrize("model", ["V2beta1Run", "V2beta1RecurringRun", "V2beta1PipelineVersion", "V2beta1Experiment"])
def test_what_the_client_package_writes_of_a_full_model_passes(model: str):
    def full(kind: str, depth: int = 0) -> Any:
        if kind.startswith("list["):
            return [full(kind[5:-1], depth)]
        if kind.startswith("dict("):
            return {"a": full(kind[10:-1], depth)}
        simple = {"str": "1111", "int": 1, "bool": True, "object": {"x": 1}, "datetime": "2026-01-01T00:00:00+00:00"}
        if kind in simple:
            return simple[kind]
        made = getattr(kfp_server_api, kind)
        if hasattr(made, "allowable_values"):
            return made.allowable_values[-1]
        return made(**{name: full(of, depth + 1) for name, of in made.openapi_types.items()})

    sent = kfp_server_api.ApiClient().sanitize_for_serialization(full(model))
    assert check(model, sent, "body") == check(model, sent, "body", strict=True) == sent


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "said"),
    [
        ("GET", "/apis/v1beta1/runs", None, 404, "no such path"),
        ("GET", f"{V2}/runs/1/tasks", None, 404, "no such path"),
        ("PUT", f"{V2}/experiments", None, 405, "has only ['GET', 'POST']"),
        ("PATCH", f"{V2}/recurringruns/1", None, 405, "has only ['DELETE', 'GET']"),
        ("GET", f"{V2}/runs?page=2", None, 400, "unknown query parameter page"),
        ("GET", f"{V2}/runs?page_size=many", None, 400, "page_size must be int"),
        ("GET", f"{V2}/runs?page_size=1&page_size=2", None, 400, "given 2 times"),
        ("POST", f"{V2}/runs", {"name": "x"}, 400, "V2beta1Run has no such field"),
        ("POST", f"{V2}/runs", {"display_name": 7}, 400, "body.display_name must be str, got 7"),
        ("POST", f"{V2}/runs", {"runtime_config": {"params": {}}}, 400, "V2beta1RuntimeConfig has no such field"),
        ("POST", f"{V2}/runs", {"runtime_config": []}, 400, "body.runtime_config must be dict"),
        ("POST", f"{V2}/recurringruns", {"mode": "ON"}, 400, "body.mode must be one of"),
        ("POST", f"{V2}/recurringruns", {"no_catchup": "true"}, 400, "body.no_catchup must be bool"),
        ("POST", f"{V2}/recurringruns", {"trigger": {"cron_schedule": {"start_time": "now"}}}, 400, "must be a time"),
        ("POST", f"{V2}/runs/1:terminate", {"run_id": "1"}, 400, "takes no body"),
        ("POST", f"{V2}/experiments", None, 400, "the body must be JSON"),
        ("POST", f"{V2}/pipelines/upload?name=x", {"pipeline": "x"}, 400, "must have the file uploadfile"),
    ],
)
def test_what_the_contract_does_not_know_is_refused_and_noted(
    api: KfpApi, verb: str, path: str, body: Any, status: int, said: str
):
    code, answer = plain(api, verb, path, body)
    assert code == status and said in answer["message"] and answer["error"] == answer["message"] and answer["code"]
    (violation,) = api.violations
    assert violation.startswith(f"{verb} {path.partition('?')[0]}: ") and said in violation
    api.violations.clear()


def test_a_server_ends_with_what_broke_the_contract():
    with pytest.raises(AssertionError, match="unknown query parameter"), serving() as api:
        plain(api, "GET", f"{V2}/runs?page=2")


def test_spellings_of_protobuf_pass(api: KfpApi):
    reference = uploaded(api)
    body = {
        "displayName": "nightly", "maxConcurrency": 2, "noCatchup": True, "description": None, "mode": "ENABLE",
        "pipelineVersionReference": {"pipelineId": reference["pipeline_id"]},
        "trigger": {"periodicSchedule": {"intervalSecond": 60}},
    }  # fmt: skip
    code, answer = plain(api, "POST", f"{V2}/recurringruns", body)
    assert code == 200 and (answer["display_name"], answer["max_concurrency"]) == ("nightly", "2")
    assert answer["trigger"] == {"periodic_schedule": {"interval_second": "60"}}


def test_an_answer_outside_the_contract_does_not_leave(api: KfpApi):
    api.state.experiments["1"] = {"experiment_id": "1", "displayName": "x"}
    code, answer = plain(api, "GET", f"{V2}/experiments/1")
    assert code == 500 and "answer.displayName" in answer["message"] and "answer.displayName" in api.violations.pop()


def test_a_mistake_of_the_test_server_is_no_lost_connection(api: KfpApi):
    reference = uploaded(api)
    api.state.scripts.append([("RUNNING", [Task("train", parent="nowhere")])])
    _, run = plain(api, "POST", f"{V2}/runs", {"display_name": "x", "pipeline_version_reference": reference})
    code, answer = plain(api, "GET", f"{V2}/runs/{run['run_id']}")
    assert code == 500 and "nowhere" in answer["message"] and "nowhere" in api.violations.pop()


# The official client


def test_the_official_client_goes_all_the_way(api: KfpApi, tmp_path: Path):
    client = kfp.Client(host=api.url)
    experiment = client.create_experiment("nightly").experiment_id
    assert client.create_experiment("nightly").experiment_id == experiment
    pipeline = client.upload_pipeline(training(), "calrec").pipeline_id
    assert client.get_pipeline_id("calrec") == pipeline
    version = client.upload_pipeline_version(training(), "calrec-2", pipeline_name="calrec").pipeline_version_id
    stored = client.get_pipeline_version(pipeline, version).pipeline_spec
    assert [stored["pipeline_spec"], stored["platform_spec"]] == list(load(Path(training())))
    run = client.run_pipeline(experiment, "one", params={"targets": ["deli"]}, pipeline_id=pipeline, version_id=version)
    assert run.state == "PENDING" and run.runtime_config.parameters == {"targets": ["deli"]}
    assert client.wait_for_run_completion(run.run_id, timeout=60, sleep_duration=0).state == "SUCCEEDED"
    inline = client.create_run_from_pipeline_package(training(), experiment_name="nightly", enable_caching=False)
    assert client.list_runs(experiment_id=experiment).total_size == 2
    client.terminate_run(inline.run_id)
    client.archive_run(inline.run_id)
    assert client.get_run(inline.run_id).storage_state == "ARCHIVED"
    recurring = client.create_recurring_run(
        experiment, "nightly", cron_expression="0 0 3 * * *", pipeline_id=pipeline, version_id=version, no_catchup=True
    )
    assert (recurring.status, recurring.trigger.cron_schedule.cron) == ("ENABLED", "0 0 3 * * *")
    client.disable_recurring_run(recurring.recurring_run_id)
    assert client.get_recurring_run(recurring.recurring_run_id).status == "DISABLED"
    client.enable_recurring_run(recurring.recurring_run_id)
    assert [one.status for one in client.list_recurring_runs().recurring_runs] == ["ENABLED"]
    client.delete_recurring_run(recurring.recurring_run_id)
    assert client.list_recurring_runs().recurring_runs is None or client.list_recurring_runs().recurring_runs == []
    assert [one.display_name for one in client.list_pipeline_versions(pipeline).pipeline_versions] == [
        "calrec",
        "calrec-2",
    ]
    assert client.list_experiments().total_size == client.list_pipelines().total_size == 1
    client.delete_pipeline_version(pipeline, version)
    assert next(iter(api.state.versions.values()))["name"] == "calrec"
    assert {request.status for request in api.requests} == {200}


# State


def test_names_are_taken_once(api: KfpApi):
    reference, client = uploaded(api), kfp.Client(host=api.url)
    assert plain(api, "POST", f"{V2}/experiments", {"display_name": "x"})[0] == 200
    code, answer = plain(api, "POST", f"{V2}/experiments", {"display_name": "x"})
    assert (code, answer["code"]) == (409, 6) and "The name x already exists" in answer["message"]
    with pytest.raises(ApiException, match=r"(?s)\(409\).*error_message.*The name calrec already exists"):
        client.upload_pipeline(training(), "calrec")
    with pytest.raises(ApiException, match=r"\(409\)"):
        client.upload_pipeline_version(training(), "calrec", pipeline_id=reference["pipeline_id"])


def test_recurring_runs_of_one_name_are_two(api: KfpApi):
    body = {"display_name": "x", "max_concurrency": "1", "pipeline_version_reference": uploaded(api)}
    assert [plain(api, "POST", f"{V2}/recurringruns", body)[0] for _ in range(2)] == [200, 200]
    assert [one["status"] for one in api.state.recurring_runs.values()] == ["DISABLED", "DISABLED"]  # no mode
    run = api.state.fire(next(iter(api.state.recurring_runs)))
    assert plain(api, "GET", f"{V2}/runs/{run['run_id']}")[1]["recurring_run_id"] == next(
        iter(api.state.recurring_runs)
    )


def test_cron_as_the_server_reads_it():
    for good in (
        "0 0 3 * * *", "0 0 3 * * 1-5", "*/30 0,15 3 1 JAN-MAR MON,FRI", "0 0 9 ? * 2-6", "@every 1h30m",
        "TZ=UTC 0 0 3 * * 0",
        "0 3 * * *",  # five fields: each hour at 3 minutes past, not each night at 3
    ):  # fmt: skip
        check_cron(good)


def test_a_bad_cron_is_refused():
    for bad in (
        "", "0 3 * *", "0 0 3 * * * *", "60 0 3 * * *", "0 0 24 * * *", "0 0 3 0 * *", "0 0 3 * * 7", "0 0 3 * XXX *",
        "0 0 3 5-1 * *", "0 0 3,x * * *", "*/0 0 3 * * *", "@often",
    ):  # fmt: skip
        with pytest.raises(Refused, match="not a supported format"):
            check_cron(bad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trigger": {"cron_schedule": {"cron": "0 0 25 * * *"}}}, "not a supported format"),
        ({"trigger": {"periodic_schedule": {"interval_second": "0"}}}, "invalid period"),
        ({"max_concurrency": "11"}, "at least 1 and at most 10"),
        ({"max_concurrency": None}, "at least 1 and at most 10"),
        ({"display_name": ""}, "name is empty"),
        ({"runtime_config": {"parameters": {"sauces": []}}}, "not required by pipeline: sauces"),
        ({"runtime_config": {"parameters": {"targets": "deli"}}}, "targets requires type list, got 'deli'"),
        ({"pipeline_version_reference": None}, "a pipeline source is missing"),
        ({"pipeline_version_reference": None, "pipeline_spec": {"root": 1}}, "the pipeline spec is invalid"),
    ],
)
def test_what_the_server_does_not_start_or_schedule(api: KfpApi, change: dict[str, Any], said: str):
    body = {"display_name": "x", "max_concurrency": "1", "pipeline_version_reference": uploaded(api)}
    for path in ["recurringruns"] + ["runs"] * ("parameters" in str(change) or "reference" in str(change)):
        sent = {name: value for name, value in body.items() if path == "recurringruns" or name != "max_concurrency"}
        code, answer = plain(api, "POST", f"{V2}/{path}", {**sent, **change})
        assert code == 400 and said in answer["message"], path
    assert api.state.recurring_runs == api.state.runs == {}


def test_a_parameter_without_default_must_be_given(api: KfpApi, tmp_path: Path):
    spec, platform = load(Path(training()))
    del spec["root"]["inputDefinitions"]["parameters"]["targets"]["defaultValue"]
    body = {"display_name": "x", "pipeline_spec": {"pipeline_spec": spec, "platform_spec": platform}}
    code, answer = plain(api, "POST", f"{V2}/runs", body)
    assert code == 400 and "parameter targets is not optional" in answer["message"]
    code, _ = plain(api, "POST", f"{V2}/runs", {**body, "runtime_config": {"parameters": {"targets": ["deli"]}}})
    assert code == 200
    (default,) = api.state.experiments.values()
    assert default["display_name"] == "Default"


@pytest.mark.parametrize(
    "change", [{"typo": 1}, {"root": {"dag": {"tasks": {"x": {"enableCash": True}}}}}, {"pipelineInfo": {}}]
)
def test_a_pipeline_that_the_protos_do_not_know_is_refused(api: KfpApi, change: dict[str, Any], tmp_path: Path):
    spec = load(Path(training()))[0]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**spec, **change}))
    with pytest.raises(ApiException, match=r"(?s)\(400\).*error_message.*the pipeline spec is invalid"):
        kfp.Client(host=api.url).upload_pipeline(str(tmp_path / "bad.yaml"), "x")
    assert api.state.pipelines == {}


def test_what_is_not_there_is_404(api: KfpApi):
    missing = {"pipeline_id": uploaded(api)["pipeline_id"], "pipeline_version_id": "gone"}
    for verb, path, body in [
        ("GET", "runs/1", None), ("POST", "runs/1:terminate", None), ("DELETE", "recurringruns/1", None),
        ("POST", "runs", {"display_name": "x", "pipeline_version_reference": missing}),
        ("POST", "runs", {"display_name": "x", "experiment_id": "gone", "pipeline_version_reference": missing}),
    ]:  # fmt: skip
        code, answer = plain(api, verb, f"{V2}/{path}", body)
        assert (code, answer["code"]) == (404, 5) and "not found" in answer["message"]


def test_lists_have_filters_order_and_pages(api: KfpApi):
    for name in "bca":
        plain(api, "POST", f"{V2}/experiments", {"display_name": name})

    def names(**query: Any) -> list[str]:
        client = kfp.Client(host=api.url)
        return [one.display_name for one in client.list_experiments(**query).experiments or []]

    def where(operation: str | int, **value: Any) -> str:
        return json.dumps({"predicates": [{"operation": operation, "key": "display_name", **value}]})

    assert names() == ["b", "c", "a"]
    assert names(sort_by="display_name") == ["a", "b", "c"] and names(sort_by="display_name desc") == ["c", "b", "a"]
    assert names(filter=where(1, stringValue="a")) == names(filter=where("EQUALS", string_value="a")) == ["a"]
    assert names(filter=where("IN", string_values={"values": ["a", "c"]})) == ["c", "a"]
    assert names(filter=where("NOT_EQUALS", string_value="a")) == ["b", "c"]
    client = kfp.Client(host=api.url)
    first = client.list_experiments(page_size=2, sort_by="display_name")
    assert first.total_size == 3 and names(page_size=2, sort_by="display_name", page_token=first.next_page_token) == [
        "c"
    ]
    for query in (
        {"filter": "{"}, {"filter": where("LIKE", string_value="a")}, {"filter": where(1, key="x")}, {"sort_by": "x"},
        {"sort_by": "display_name down"}, {"page_token": "x"}, {"page_size": -1},
    ):  # fmt: skip
        with pytest.raises(ApiException, match=r"\(400\)"):
            names(**query)


def test_a_run_follows_its_script(api: KfpApi):
    reference = uploaded(api)
    api.run_script([("ingest", "SUCCEEDED"), Task("textify", "FAILED", ("pod-1",), "ingest", "no disk")], "FAILED")
    client = kfp.Client(host=api.url).runs
    run = client.run_service_create_run({"display_name": "x", "pipeline_version_reference": reference})
    assert run.finished_at.year == 1970
    looks = [client.run_service_get_run(run.run_id) for _ in range(5)]
    assert [look.state for look in looks] == ["PENDING", "RUNNING", "RUNNING", "FAILED", "FAILED"]
    assert [one.state for one in looks[4].state_history] == ["PENDING", "RUNNING", "FAILED"]
    assert looks[0].run_details is None and looks[4].finished_at.year > 1970
    tasks = [{one.display_name: one for one in look.run_details.task_details} for look in looks[1:]]
    shown = [{name: one.state for name, one in look.items()} for look in tasks]
    assert shown[:2] == [{"ingest": "RUNNING"}, {"ingest": "SUCCEEDED", "textify": "RUNNING"}]
    assert shown[2:] == [{"ingest": "SUCCEEDED", "textify": "FAILED"}] * 2
    first, last = tasks[3]["ingest"], tasks[3]["textify"]
    assert last.child_tasks[0].pod_name == "pod-1" and last.error.message == "no disk"
    assert first.error is None and first.parent_task_id is None and last.parent_task_id == first.task_id
    assert first.task_id == tasks[0]["ingest"].task_id and tasks[0]["ingest"].end_time.year == 1970
    assert first.start_time < first.end_time <= last.start_time < last.end_time
    assert first.create_time == last.create_time == run.created_at


def test_a_failed_run_can_be_tried_again_with_the_next_script(api: KfpApi):
    reference = uploaded(api)
    api.run_script([("ingest", "FAILED")], "FAILED")
    api.run_script([("ingest", "SUCCEEDED")])
    _, run = plain(api, "POST", f"{V2}/runs", {"display_name": "x", "pipeline_version_reference": reference})
    at = f"{V2}/runs/{run['run_id']}"
    assert plain(api, "POST", f"{at}:retry")[0] == 400
    assert [plain(api, "GET", at)[1]["state"] for _ in range(3)] == ["PENDING", "RUNNING", "FAILED"]
    assert plain(api, "POST", f"{at}:retry")[0] == 200
    assert [plain(api, "GET", at)[1]["state"] for _ in range(3)] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert plain(api, "POST", f"{at}:retry")[0] == 400


def test_turns_of_a_loop_are_tasks_of_their_own(api: KfpApi):
    turns = [Task(name, parent=above) for turn in "12" for name, above in [(turn, "loop"), ("train", turn)]]
    api.run_script([Task("loop"), *turns])
    _, run = plain(api, "POST", f"{V2}/runs", {"display_name": "x", "pipeline_version_reference": uploaded(api)})
    looks = [plain(api, "GET", f"{V2}/runs/{run['run_id']}")[1] for _ in range(8)]
    tasks = looks[-1]["run_details"]["task_details"]
    names = {one["task_id"]: one["display_name"] for one in tasks}
    assert sorted(names[one["parent_task_id"]] + one["display_name"] for one in tasks if "parent_task_id" in one) == [
        "1train", "2train", "loop1", "loop2"
    ]  # fmt: skip


def test_a_terminated_run_is_canceled_in_the_end(api: KfpApi):
    reference = uploaded(api)
    _, run = plain(api, "POST", f"{V2}/runs", {"display_name": "x", "pipeline_version_reference": reference})
    api.hold(run["run_id"], ("RUNNING", [Task("ingest", "RUNNING")]))
    at = f"{V2}/runs/{run['run_id']}"
    assert [plain(api, "GET", at)[1]["state"] for _ in range(3)] == ["RUNNING"] * 3
    assert plain(api, "POST", f"{at}:terminate", {})[0] == 200
    assert [plain(api, "GET", at)[1]["state"] for _ in range(3)] == ["CANCELING", "CANCELED", "CANCELED"]
    assert plain(api, "POST", f"{at}:terminate")[0] == 400


def test_several_users_have_namespaces():
    with serving(state=State(multi_user=True)) as api:
        assert plain(api, "GET", f"{V2}/healthz")[1]["multi_user"] is True
        for space in ("a", "b"):
            plain(api, "POST", f"{V2}/experiments", {"display_name": "x", "namespace": space})
        assert plain(api, "GET", f"{V2}/experiments")[0] == 400
        (found,) = plain(api, "GET", f"{V2}/experiments?namespace=b")[1]["experiments"]
        assert found["namespace"] == "b"
        assert plain(api, "GET", f"{V2}/runs?experiment_id={found['experiment_id']}")[1] == {
            "runs": [],
            "total_size": 0,
        }


def test_servers_share_a_state(api: KfpApi):
    reference = uploaded(api)
    with serving(state=api.state) as other:
        assert plain(other, "GET", f"{V2}/pipelines/{reference['pipeline_id']}")[1]["name"] == "calrec"


# Who may ask, and what goes wrong


def test_tokens_and_cookies_open_the_server():
    with serving(tokens={"old"}) as api:
        assert plain(api, "GET", f"{V2}/runs")[0] == plain(api, "GET", f"{V2}/runs", Authorization="Bearer x")[0] == 401
        assert plain(api, "GET", f"{V2}/runs", Authorization="Bearer old")[0] == 200
        assert kfp.Client(host=api.url, existing_token="old").list_runs().total_size == 0
        api.tokens = {"new"}
        code, answer = plain(api, "GET", f"{V2}/runs", Authorization="Bearer old")
        assert (code, answer["code"]) == (401, 16)
        assert plain(api, "GET", f"{V2}/runs", Authorization="Bearer new")[0] == 200
        api.cookies = {"session=1"}
        assert kfp.Client(host=api.url, cookies="a=b; session=1").list_runs().total_size == 0
        assert [request.status for request in api.requests[:3]] == [401, 401, 200]


def test_a_gateway_answers_for_the_server(api: KfpApi):
    api.faults += [faults.status(429, on=f"POST {V2}/exp", retry_after="7"), faults.status(503, times=2, body="down")]
    request = urllib.request.Request(f"{api.url}{V2}/experiments", b'{"display_name": "x"}')
    for code, body in [(429, b"upstream"), (503, b"down"), (503, b"down")]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        assert caught.value.code == code and caught.value.read().startswith(body)
        assert caught.value.headers.get("Retry-After") == ("7" if code == 429 else None)
    assert api.state.experiments == {}
    urllib.request.urlopen(request, timeout=60).close()
    assert len(api.state.experiments) == 1 and [one.status for one in api.requests] == [429, 503, 503, 200]


@pytest.mark.parametrize(("fault", "made"), [(faults.drop(on="POST"), 0), (faults.lose(on="POST"), 1)])
def test_a_connection_breaks_before_or_after_the_effect(api: KfpApi, fault: faults.Fault, made: int):
    api.faults.append(fault)
    assert plain(api, "GET", f"{V2}/experiments")[0] == 200
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        plain(api, "POST", f"{V2}/experiments", {"display_name": "x"})
    assert len(api.state.experiments) == made and api.requests[-1].status == 0
    assert plain(api, "POST", f"{V2}/experiments", {"display_name": "x"})[0] == (409 if made else 200)


def test_a_proxy_answers_with_its_login_page(api: KfpApi):
    api.faults.append(faults.garbage())
    with urllib.request.urlopen(f"{api.url}{V2}/healthz", timeout=60) as answer:
        assert answer.status == 200 and answer.read() == b"<html>Sign in</html>"


def test_a_slow_request_has_its_effect_without_its_client(api: KfpApi):
    api.faults.append(faults.slow(0.5, on="POST"))
    request = urllib.request.Request(f"{api.url}{V2}/experiments", b'{"display_name": "x"}')
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.1)
    while not api.state.experiments:
        threading.Event().wait(0.01)


def test_a_restart_keeps_port_and_state_and_breaks_connections(api: KfpApi):
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    connection.request("POST", f"{V2}/experiments", '{"display_name": "x"}')
    assert connection.getresponse().read()
    url = api.url
    api.restart()
    assert api.url == url and plain(api, "GET", f"{V2}/experiments")[1]["total_size"] == 1
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        connection.request("GET", f"{V2}/experiments")
        connection.getresponse()
    api.stop()
    with pytest.raises(urllib.error.URLError):
        plain(api, "GET", f"{V2}/experiments")
    api.start()
    assert plain(api, "GET", f"{V2}/experiments")[0] == 200
