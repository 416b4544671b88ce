"""What the API takes: paths and query parameters of the installed kubernetes client, fields of Trainer's models."""

import inspect
import json
import re
from dataclasses import dataclass
from typing import Any

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob as TrainJob
from kubernetes import client

NAMESPACE, TOKEN = "shop", "token-of-the-step"
TRAINJOBS = "trainjobs.trainer.kubeflow.org"
ROLE = frozenset(
    {("create", TRAINJOBS), ("get", TRAINJOBS), ("delete", TRAINJOBS), ("list", "pods"), ("get", "pods/log")}
)
GROUP_PATH = "/apis/trainer.kubeflow.org/v1alpha1/"
RFC3339 = "%Y-%m-%dT%H:%M:%SZ"
POLICIES = ("Foreground", "Background", "Orphan")


@dataclass(frozen=True)
class Operation:
    """A request that the installed client can make."""

    verb: str
    method: str
    path: "re.Pattern[str]"
    query: frozenset[str]


def _operation(verb: str, call: Any) -> Operation:
    source = inspect.getsource(call)
    ((path, method),) = re.findall(r"call_api\(\s*'([^']+)', '(\w+)'", source)
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
    return Operation(verb, method, pattern, frozenset(re.findall(r"query_params.append\(\('(\w+)'", source)))


_CUSTOM, _CORE = client.CustomObjectsApi, client.CoreV1Api
OPERATIONS = (
    _operation("create", _CUSTOM.create_namespaced_custom_object_with_http_info),
    _operation("get", _CUSTOM.get_namespaced_custom_object_with_http_info),
    _operation("delete", _CUSTOM.delete_namespaced_custom_object_with_http_info),
    _operation("list", _CORE.list_namespaced_pod_with_http_info),
    _operation("get", _CORE.read_namespaced_pod_log_with_http_info),
)


class RefusedError(Exception):
    """An answer that is no success; `message` None: no JSON, as for a path that the server does not know."""

    def __init__(self, code: int, message: str | None):
        super().__init__(code, message)
        self.code, self.message = code, message


@dataclass
class Fault:
    """What goes wrong with the next request of a verb: create, get, delete a TrainJob, list pods, or log.

    kind: an HTTP status; drop or lost, the connection breaks before or after the request took effect; slow.
    """

    verb: str
    kind: int | str


def misfit(job: dict[str, Any]) -> str:
    """What Trainer's models do not take of a TrainJob; they drop unknown fields without a word."""
    try:
        text = json.dumps(TrainJob.from_dict(job).to_dict(), default=lambda moment: f"{moment:{RFC3339}}")
    except ValueError as error:  # pydantic's
        return str(error)
    return "" if json.loads(text) == job else f"{json.dumps(job)} has fields that it does not know, it read {text}"
