"""TrainJobs of Kubeflow Trainer v2 in one namespace, through the API of Kubernetes: made, watched, deleted."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 30.0  # between two looks at the job
TIMEOUT_S = 30.0  # of one request
_TRIES = 8  # of one request to a server that does not answer, or no longer allows it: four minutes and a half
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class UnseenError(ConnectionError):
    """The API of Kubernetes stayed away, or refused what it had allowed: what became of the job is not known."""


class Cluster:
    """TrainJobs of one namespace: the pod's own, or that of the kubeconfig."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep):
        from kubernetes import client, config

        self._sleep, self._allowed = sleep, False
        try:
            config.load_incluster_config()
            self.namespace = _NAMESPACE.read_text().strip()
        except config.ConfigException:
            self.namespace = _from_kubeconfig()
        self._jobs = client.CustomObjectsApi()
        self.core = client.CoreV1Api(self._jobs.api_client)
        """The API of the pods."""

    def begin(self, body: Mapping[str, Any]) -> None:
        """Make the job, or adopt it when it runs already; one that ended or is on its way out makes room."""
        name, told = body["metadata"]["name"], False
        while not self._ask("create", body):
            old = self._ask("get", name)
            if old and "deletionTimestamp" not in old["metadata"]:
                if not _end(old)[0]:
                    print(f"TrainJob {name} runs already; waiting for it", flush=True)
                    return
                self._delete(name)
            if not told:
                print(f"TrainJob {name} of an earlier attempt is being deleted; waiting until it is gone", flush=True)
            told = True
            self._sleep(FIRST_PAUSE_S)

    def wait(self, name: str) -> tuple[str, str]:
        """How the job ended, Complete or Failed, and the message about it; one that a queue holds is waited for."""
        pause, shown = FIRST_PAUSE_S, ""
        while True:
            job = self._ask("get", name)
            if job is None:
                raise ChildProcessError(f"TrainJob {name} was deleted by someone else; run the same command again")
            ended, message = _end(job)
            if ended:
                return ended, message
            if message != shown:
                print(f"TrainJob {name}: {message}", flush=True)
            shown = message
            self._sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE_S)

    def give_up(self, name: str) -> None:
        """Delete the job, so that it neither goes on unwatched nor stays behind; one that is gone already is fine."""
        try:
            self._delete(name)
        except OSError as error:
            print(f"TrainJob {name} is still in the cluster: {error}", file=sys.stderr, flush=True)

    def _delete(self, name: str) -> None:
        # Foreground: the name is free only when the pods are gone, and their last checkpoint is written.
        self._ask("delete", name, propagation_policy="Foreground")

    def _ask(self, verb: str, about: Any, **options: Any) -> Any:
        """The answer to one request; None when there is no such job, or, to create, when there is one."""
        import urllib3
        from kubernetes.client import ApiException

        call = getattr(self._jobs, f"{verb}_namespaced_custom_object")
        for again in range(_TRIES):
            try:
                answer = call(GROUP, VERSION, self.namespace, PLURAL, about, _request_timeout=TIMEOUT_S, **options)
                self._allowed = True
                return answer
            except ApiException as error:
                if _is_absent(error, about) if verb != "create" else error.status == 409:
                    self._allowed = True
                    return None
                passes = is_refusal(error) or error.status == 404  # a server that starts does not know TrainJobs yet
                if not (passes and self._allowed) and error.status < 500 and error.status != 429:
                    raise _refused(error, verb, self.namespace) from None
                why: Exception = _refused(error, verb, self.namespace) if is_refusal(error) else error
            except urllib3.exceptions.HTTPError as error:
                why = error
            if not again and self._allowed and isinstance(why, PermissionError):
                print(f"TrainJob: a request that was allowed before is refused, trying again: {why}", flush=True)
            self._sleep(min(FIRST_PAUSE_S * 2**again, 60))
        raise UnseenError(f"the API of Kubernetes did not answer, or refused, {_TRIES} times in a row: {why}")


def _from_kubeconfig() -> str:
    from kubernetes import config

    file = os.environ.get("KUBECONFIG")
    try:
        config.load_kube_config(file)
        context = config.list_kube_config_contexts(file)[1]
    except config.ConfigException as error:
        raise ValueError(f"no cluster for the TrainJob ({error}); run in a pod, or set KUBECONFIG") from None
    return str(context["context"].get("namespace", "default"))


def _end(job: Mapping[str, Any]) -> tuple[str, str]:
    """The condition that ends the job, Complete or Failed, or else "", and a message about its state."""
    status = job.get("status", {})
    conditions = [c for c in status.get("conditions", []) if c.get("status") == "True"]
    messages = {c["type"]: c.get("message") or c.get("reason", "") for c in conditions}
    for kind in ("Complete", "Failed"):
        if kind in messages:
            return kind, messages[kind]
    if "Suspended" in messages:
        return "", f"suspended, {messages['Suspended']}"
    ready = any(part.get("ready") for part in status.get("jobsStatus", []))
    return "", "running" if ready else "waiting for its pods to start"


def message_of(error: Any) -> str:
    """What the API said when it refused a request."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def is_refusal(error: Any) -> bool:
    """Whether it is about who asks: a server that has just started does not know its tokens and roles for seconds.

    A webhook's refusal and a full quota are 403, too.
    """
    return error.status == 401 or (error.status == 403 and "cannot" in message_of(error))


def _is_absent(error: Any, name: str) -> bool:
    """Whether the API says that there is no such job, and not that it knows no such path."""
    return error.status == 404 and f'"{name}" not found' in message_of(error)


def _refused(error: Any, verb: str, namespace: str) -> Exception:
    message = message_of(error)
    if error.status == 401:
        return PermissionError(
            f"the cluster does not know who asks ({message}); the token of this pod's service account, or of the "
            "kubeconfig, is not valid: run the step again, or log in again"
        )
    if is_refusal(error):
        return PermissionError(
            f"TrainJobs of namespace {namespace}: {message}; give this step's service account the Role of "
            "manifests/components/trainjob"
        )
    if error.status == 404 and "namespaces" in message:
        return ValueError(f"no namespace for the TrainJob: {message}; correct the one of the kubeconfig's context")
    if error.status == 404:
        return ValueError(
            f"no TrainJobs in this cluster ({message}); install Kubeflow Trainer v2, or set launch.launcher"
        )
    if "must be created before the TrainJob" in message:
        return ValueError(
            f"launch.runtime is not in this cluster: {message}; kubectl get clustertrainingruntimes,trainingruntimes "
            f"-n {namespace} lists those that are"
        )
    return ValueError(f"TrainJob refused, {verb}: {message}; check launch.runtime and the image")
