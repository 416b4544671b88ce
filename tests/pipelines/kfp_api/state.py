"""What the API server remembers, and what each of its operations does to it."""

import copy
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import kfp_server_api

from tests.pipelines.kfp_api import rules
from tests.pipelines.kfp_api.contract import Operation
from tests.pipelines.kfp_api.listing import listed
from tests.pipelines.kfp_api.rules import Refused, Resource, invalid

NEVER = "1970-01-01T00:00:00Z"  # the server's "not yet"
OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
LAUNCHED = ("display_name", "description", "experiment_id", "pipeline_spec", "pipeline_version_reference",
            "runtime_config", "service_account", "plugins_input")  # fmt: skip
SCHEDULED = ("trigger", "no_catchup", "max_concurrency", "namespace")


@dataclass
class Call:
    """A request that keeps the contract."""

    path: dict[str, str]
    query: dict[str, Any]
    body: Any = None
    file: bytes = b""
    file_name: str = ""


@dataclass(frozen=True)
class Task:
    """An entry of task_details; `parent` is the last task of that name before it, `children` are names of pods.

    The server of 2.17 fills neither `parent_task_id` nor `error`.
    """

    name: str
    state: str = "SUCCEEDED"
    children: tuple[str, ...] = ()
    parent: str = ""
    error: str = ""


Frame = tuple[str, Sequence[Task]]  # what one GET of a run shows: its state and its tasks


def script(steps: Iterable[tuple[str, str] | Task], end: str = "SUCCEEDED") -> list[Frame]:
    """Frames of a run that goes PENDING, then through the steps one by one, then to its end."""
    tasks = [step if isinstance(step, Task) else Task(*step) for step in steps]
    running = [("RUNNING", [*tasks[:i], replace(task, state="RUNNING", error="")]) for i, task in enumerate(tasks)]
    return [("PENDING", []), *running, (end, tasks)]


@dataclass
class State:
    """Everything by id, as JSON. Several servers may share one."""

    multi_user: bool = False
    experiments: dict[str, Resource] = field(default_factory=dict)
    pipelines: dict[str, Resource] = field(default_factory=dict)
    versions: dict[str, Resource] = field(default_factory=dict)
    runs: dict[str, Resource] = field(default_factory=dict)
    recurring_runs: dict[str, Resource] = field(default_factory=dict)
    # What is to be shown: of the runs to come, and by run. The last one stays.
    scripts: list[list[Frame]] = field(default_factory=list)
    frames: dict[str, list[Frame]] = field(default_factory=dict)
    times: dict[str, list[str]] = field(default_factory=dict)  # by task: when it was first seen running, and over
    lock: Any = field(default_factory=threading.RLock)

    def do(self, operation: Operation, call: Call) -> Any:
        """The answer of an operation: of the method of its name, else what get, list and delete do to all kinds."""
        name = operation.name.rpartition("_service_")[2]
        verb, _, kind = name.partition("_")
        method = getattr(self, name, None)
        with self.lock:
            if method:
                return copy.deepcopy(method(call))
            if verb == "list":
                return copy.deepcopy(self._list(operation, call))
            if verb not in ("get", "delete") or f"{kind}_id" not in call.path:
                raise Refused(rules.UNIMPLEMENTED, f"{operation.name} is not implemented by this test server")
            found = self._find(kind, call.path[f"{kind}_id"])
            return copy.deepcopy(found if verb == "get" else self._remove(kind, found))

    def fire(self, recurring_run_id: str) -> Resource:
        """The run that a schedule starts when its time has come."""
        with self.lock:
            run = self.create_run(Call({}, {}, _own(self.recurring_runs[recurring_run_id], *LAUNCHED)))
            run["recurring_run_id"] = recurring_run_id
        return run

    # Operations, by the names that kfp_server_api gives them

    def get_healthz(self, call: Call) -> Resource:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def create_experiment(self, call: Call) -> Resource:
        asked = _own(call.body, "display_name", "description", "namespace")
        self._unique("experiment", asked, "namespace")
        return self._store("experiment", asked | {"storage_state": "AVAILABLE"})

    def upload_pipeline(self, call: Call) -> Resource:
        spec, asked = rules.parse(call.file), _named(call, "namespace")
        self._unique("pipeline", asked, "namespace")
        pipeline = self._store("pipeline", asked)
        version = _own(asked, "name", "display_name", "description") | {"pipeline_id": pipeline["pipeline_id"]}
        self._store("pipeline_version", version | {"pipeline_spec": spec})
        return pipeline

    def upload_pipeline_version(self, call: Call) -> Resource:
        spec, pipeline = rules.parse(call.file), self._find("pipeline", call.query.get("pipelineid", ""))
        asked = _named(call) | {"pipeline_id": pipeline["pipeline_id"]}
        self._unique("pipeline_version", asked, "pipeline_id")
        return self._store("pipeline_version", asked | {"pipeline_spec": spec})

    def get_pipeline_by_name(self, call: Call) -> Resource:
        found = [one["pipeline_id"] for one in self.pipelines.values() if one["name"] == call.path["name"]]
        return self._find("pipeline", found[0] if found else call.path["name"])

    def delete_pipeline(self, call: Call) -> Resource:
        pipeline = self._find("pipeline", call.path["pipeline_id"])
        versions = [one for one in self.versions.values() if one["pipeline_id"] == pipeline["pipeline_id"]]
        if versions and not call.query.get("cascade"):
            raise invalid(f"Failed to delete pipeline {pipeline['pipeline_id']}: it has pipeline versions")
        for version in versions:
            self._remove("pipeline_version", version)
        return self._remove("pipeline", pipeline)

    def create_run(self, call: Call) -> Resource:
        spec, asked = self._launch(call.body)
        asked |= {"state": "", "state_history": [], "storage_state": "AVAILABLE", "scheduled_at": _now()}
        run = self._store("run", asked)
        self._turn(run, "PENDING")
        self._play(run, spec)
        return run

    def get_run(self, call: Call) -> Resource:
        run = self._find("run", call.path["run_id"])
        frames = self.frames[run["run_id"]]
        state, tasks = frames.pop(0) if len(frames) > 1 else frames[0]
        self._turn(run, state)
        details = self._details(run, tasks)
        return run | ({"run_details": {"task_details": details}} if details else {})

    def terminate_run(self, call: Call) -> Resource:
        run = self._find("run", call.path["run_id"])
        if run["state"] in OVER:
            raise invalid(f"Failed to cancel run {run['run_id']}: it is {run['state']}")
        self._turn(run, "CANCELING")
        tasks = self.frames[run["run_id"]][0][1]
        ended = [replace(one, state="FAILED" if one.state == "RUNNING" else one.state) for one in tasks]
        self.frames[run["run_id"]] = [("CANCELING", tasks), ("CANCELED", ended)]
        return {}

    def retry_run(self, call: Call) -> Resource:
        run = self._find("run", call.path["run_id"])
        if run["state"] not in ("FAILED", "CANCELED"):
            raise invalid(f"Workflow must be Failed/Error to retry, run {run['run_id']} is {run['state']}")
        self._turn(run, "RUNNING")
        self._play(run, self._specification(run))
        return {}

    def archive_run(self, call: Call) -> Resource:
        self._find("run", call.path["run_id"])["storage_state"] = "ARCHIVED"
        return {}

    def unarchive_run(self, call: Call) -> Resource:
        self._find("run", call.path["run_id"])["storage_state"] = "AVAILABLE"
        return {}

    def create_recurring_run(self, call: Call) -> Resource:
        _, asked = self._launch(call.body)
        asked |= _own(call.body, *SCHEDULED)
        trigger = asked.get("trigger", {})
        if not 1 <= int(asked.get("max_concurrency", 0)) <= 10:
            raise invalid("Max concurrency of a recurring run must be at least 1 and at most 10")
        if "cron_schedule" in trigger:
            rules.check_cron(trigger["cron_schedule"].get("cron", ""))
        if "periodic_schedule" in trigger and int(trigger["periodic_schedule"].get("interval_second", 0)) < 1:
            raise invalid("Found invalid period schedule interval. Set at interval to least 1 second")
        recurring = self._store("recurring_run", asked)
        _switch(recurring, call.body.get("mode") == "ENABLE")
        return recurring

    def enable_recurring_run(self, call: Call) -> Resource:
        return _switch(self._find("recurring_run", call.path["recurring_run_id"]), True)

    def disable_recurring_run(self, call: Call) -> Resource:
        return _switch(self._find("recurring_run", call.path["recurring_run_id"]), False)

    # What the operations share

    def _kept(self, kind: str) -> dict[str, Resource]:
        kept: dict[str, Resource] = getattr(self, "versions" if kind == "pipeline_version" else f"{kind}s")
        return kept

    def _find(self, kind: str, key: str) -> Resource:
        if key not in self._kept(kind):
            raise Refused(rules.NOT_FOUND, f"ResourceNotFoundError: {kind} {key} not found.")
        return self._kept(kind)[key]

    def _store(self, kind: str, made: Resource) -> Resource:
        made |= {f"{kind}_id": str(uuid.uuid4()), "created_at": _now()}
        self._kept(kind)[made[f"{kind}_id"]] = made
        return made

    def _remove(self, kind: str, found: Resource) -> Resource:
        del self._kept(kind)[found[f"{kind}_id"]]
        return {}

    def _unique(self, kind: str, asked: Resource, scope: str) -> None:
        label = "name" if "name" in asked else "display_name"
        if label not in asked:
            raise invalid(f"the {kind}'s name is empty")
        if any(asked[label] == one[label] and asked.get(scope) == one.get(scope) for one in self._kept(kind).values()):
            message = f"Failed to create a new {kind}. The name {asked[label]} already exists"
            raise Refused(rules.EXISTS, f"Already exist error: {message}. Please specify a new name")

    def _launch(self, body: Resource) -> tuple[Resource, Resource]:
        """The specification to run, and the fields that runs and recurring runs share."""
        asked: Resource = {"service_account": "pipeline-runner"} | _own(body, *LAUNCHED)
        if "display_name" not in asked:
            raise invalid("The run name is empty. Please specify a valid name.")
        if "experiment_id" not in asked:
            found = [one for one in self.experiments.values() if one["display_name"] == "Default"]
            default = found[0] if found else self._store("experiment", {"display_name": "Default"})
            asked["experiment_id"] = default["experiment_id"]
        self._find("experiment", asked["experiment_id"])
        spec = self._specification(asked)
        rules.check_parameters(spec, asked.get("runtime_config", {}).get("parameters", {}))
        return spec, asked

    def _specification(self, asked: Resource) -> Resource:
        """What a run or a recurring run refers to; without a version, the latest."""
        if "pipeline_spec" in asked:
            return rules.check_specification(asked["pipeline_spec"])
        reference = asked.get("pipeline_version_reference", {})
        if "pipeline_id" not in reference:
            raise invalid("a pipeline source is missing: a pipeline spec or a pipeline version")
        pipeline = self._find("pipeline", reference["pipeline_id"])["pipeline_id"]
        versions = [one for one in self.versions.values() if one["pipeline_id"] == pipeline]
        wanted = reference.get("pipeline_version_id")
        found = [one for one in versions if wanted in (None, one["pipeline_version_id"])]
        if not found:
            raise Refused(rules.NOT_FOUND, f"ResourceNotFoundError: pipeline_version {wanted} not found.")
        return found[-1]["pipeline_spec"]

    def _play(self, run: Resource, spec: Resource) -> None:
        unscripted = script([(name, "SUCCEEDED") for name in rules.root(spec)["dag"]["tasks"]])
        chosen = self.scripts.pop(0) if len(self.scripts) > 1 else [*self.scripts, unscripted][0]
        self.frames[run["run_id"]] = list(chosen)

    def _turn(self, run: Resource, state: str) -> None:
        if run["state"] != state:
            run["state"], run["finished_at"] = state, _now() if state in OVER else NEVER
            run["state_history"] = [*run["state_history"], {"update_time": _now(), "state": state}]

    def _details(self, run: Resource, tasks: Sequence[Task]) -> list[Resource]:
        """In the order of a hash, all with the time at which the run was made: so the server does."""
        made: list[Resource] = []
        latest: dict[str, str] = {}
        for task in tasks:
            turn = sum(one["display_name"] == task.name for one in made)
            latest[task.name] = str(uuid.uuid5(uuid.UUID(run["run_id"]), f"{task.name} {turn}"))
            times = self.times.setdefault(latest[task.name], [NEVER, NEVER])
            times[0] = _now() if times[0] == NEVER and task.state != "PENDING" else times[0]
            times[1] = NEVER if task.state not in OVER else _now() if times[1] == NEVER else times[1]
            made.append({
                "run_id": run["run_id"], "task_id": latest[task.name], "display_name": task.name, "state": task.state,
                "create_time": run["created_at"], "start_time": times[0], "end_time": times[1],
                "child_tasks": [{"pod_name": name} for name in task.children],
            })  # fmt: skip
            made[-1] |= {"parent_task_id": latest[task.parent]} if task.parent else {}
            made[-1] |= {"error": {"code": 2, "message": task.error}} if task.error else {}
        return sorted(made, key=lambda one: uuid.uuid5(uuid.NAMESPACE_URL, one["display_name"]))

    def _list(self, operation: Operation, call: Call) -> Resource:
        answer = getattr(kfp_server_api, operation.answer)
        label = next(label for label, kind in answer.openapi_types.items() if kind.startswith("list["))
        item = getattr(kfp_server_api, answer.openapi_types[label][5:-1])
        found = list(self._kept(label.removesuffix("s")).values())
        if "pipeline_id" in call.path:
            found = [one for one in found if one["pipeline_id"] == call.path["pipeline_id"]]
        if experiment := call.query.get("experiment_id"):
            found = [one for one in found if one["experiment_id"] == experiment]
        elif self.multi_user and "namespace" in operation.query and label != "pipelines":
            space = call.query.get("namespace")
            if not space:
                raise invalid(f"Failed to list {label} in multi-user mode: the namespace is empty")
            found = [one for one in found if space == self.experiments[one["experiment_id"]].get("namespace")]
        return listed(found, {"name", *item.openapi_types}, answer.attribute_map[label], call.query)


def _own(given: Resource, *fields: str) -> Resource:
    return {name: given[name] for name in fields if given.get(name) not in (None, "")}


def _named(call: Call, *fields: str) -> Resource:
    asked = {"name": call.query.get("display_name") or call.file_name} | _own(
        call.query, "name", "description", *fields
    )
    return asked | {"display_name": call.query.get("display_name") or asked["name"]}


def _switch(recurring: Resource, on: bool) -> Resource:
    recurring |= {"mode": "ENABLE", "status": "ENABLED"} if on else {"mode": "DISABLE", "status": "DISABLED"}
    recurring["updated_at"] = _now()
    return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
