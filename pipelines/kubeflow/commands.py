"""The commands that speak to a cluster: submit, status, logs, schedule."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calrec.cli.options import add_run_options, configuration
from pipelines import PIPELINES
from pipelines.kubeflow import options as cluster_options
from pipelines.kubeflow.options import command

if TYPE_CHECKING:
    from pipelines.kubeflow.connection import Kubeflow

_SUBMIT = """examples:
  export KFP_HOST=http://localhost:8888        # kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888
  calrec submit --run sample --image REGISTRY/calrec@sha256:...
  calrec submit training --source books=gs://shop/books --target books --set stage1.steps=5000 \\
      --image REGISTRY/calrec@sha256:... --cache-claim calrec-cache --no-wait
  calrec submit --file build/calrec-training.yaml --timeout 3600
  KFP_TOKEN=$(kubectl create token pipeline-user -n shop) calrec submit --namespace shop ...

exit code: 0 succeeded, 1 failed, 2 wrong use, 3 canceled or skipped, 4 still running at --timeout, 130 left by Ctrl-C,
143 left by SIGTERM. A run that was left goes on."""

_STATUS = """examples:
  calrec status               # the newest runs
  calrec status --last 50
  calrec status RUN_ID        # the steps of one run"""

_LOGS = """examples:
  calrec logs RUN_ID                   # all steps whose pods are left
  calrec logs RUN_ID 'Stage 1' --follow
  calrec logs RUN_ID 'Ingest [2]'      # the second turn of a loop

The pods are read from Kubernetes (KUBECONFIG, or this pod's account), which needs get and list on pods and pods/log."""


def add(commands: Any) -> None:
    """Add the verbs that speak to a cluster."""
    from pipelines.kubeflow import schedules

    _add_submit(commands)

    status = command(commands, "status", "the newest runs in the cluster, or the steps of one of them", _STATUS)
    status.add_argument("run_id", nargs="?", default="", metavar="RUN_ID", help="a run; without it the newest ones")
    status.add_argument("--last", type=int, default=10, metavar="N", help="how many runs (default: 10)")
    cluster_options.add(status)
    status.set_defaults(command=_status)

    logs = command(commands, "logs", "what the steps of a run have written", _LOGS)
    logs.add_argument("run_id", metavar="RUN_ID")
    logs.add_argument("step", nargs="?", default="", metavar="STEP", help="a step, as status names it (default: all)")
    logs.add_argument("--follow", action="store_true", help="wait for what is still to come; one pod after the other")
    cluster_options.add(logs)
    logs.set_defaults(command=_logs)

    schedules.add(commands)


def _add_submit(commands: Any) -> None:
    submit = command(commands, "submit", "run a pipeline in the cluster and follow it until it ends", _SUBMIT)
    submit.add_argument("pipeline", nargs="?", default="training", choices=PIPELINES, help="default: training")
    add_run_options(submit)
    group = submit.add_argument_group("run")
    cluster_options.add_run(group)
    group.add_argument("--only-new", action="store_true", help="training: end at once if no source has new data")
    group.add_argument(
        "--file", type=Path, metavar="YAML", help="submit this compiled pipeline, as it is, instead of compiling one"
    )
    group.add_argument("--name", default="", help="name of the run (default: the pipeline's and the time)")
    group.add_argument(
        "--mlflow-plugin", action="store_true", help="ask for the server's own MLflow plugin; not every server has it"
    )
    group.add_argument("--no-wait", action="store_true", help="do not follow the run")
    group.add_argument("--timeout", type=float, metavar="S", help="follow for so many seconds; the run goes on")
    cluster_options.add(submit)
    submit.set_defaults(command=_submit)


def _submit(options: argparse.Namespace) -> int:
    from pipelines.kubeflow import submission
    from pipelines.kubeflow.connection import connect
    from pipelines.kubeflow.watching import watch
    from pipelines.validation import sound

    with tempfile.TemporaryDirectory(prefix="calrec-") as folder:
        path, parameters = _compiled(options, Path(folder))
        specification = sound(path)
        kubeflow = connect(cluster_options.settings(options))
        version = submission.pipeline_version(kubeflow, specification["pipelineInfo"]["name"], path)
    print(f"version     {version.name} ({'known to the server' if version.reused else 'uploaded'})")
    plugin = _tracking_experiment() if options.mlflow_plugin else ""
    experiment = submission.experiment(kubeflow, options.experiment)
    try:
        run = submission.create_run(
            kubeflow, version, experiment, options.name, parameters, options.service_account, plugin
        )
    except KeyboardInterrupt:
        print("calrec: interrupted while the run was made; see calrec status", file=sys.stderr)
        return 130
    print(f"run         {run.display_name} ({run.run_id})")
    print(f"page        {kubeflow.link(f'runs/details/{run.run_id}')}", flush=True)
    if options.no_wait:
        print(f"it runs without this command; see calrec status {run.run_id}")
        return 0
    until = None if options.timeout is None else time.monotonic() + options.timeout
    return watch(kubeflow, run.run_id, specification, until)


def _compiled(options: argparse.Namespace, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A compiled pipeline and the runtime parameters that go with it."""
    if options.file:
        defaults = {"pipeline": "training", "run": "sample"}
        for name in ("pipeline", "run", "source", "target", "ablation", "set", "image", "cache_claim", "only_new"):
            value = getattr(options, name)
            if value and value != defaults.get(name):
                what = value if name == "pipeline" else f"--{name.replace('_', '-')}"
                raise ValueError(f"--file is submitted as it is; leave out {what}, or --file")
        return options.file, {}
    from pipelines.compiling import arguments, compile_pipeline

    config = configuration(options)
    cluster_options.warn_of_tag(options.image, "what it means may change, and caches do not see it")
    path = compile_pipeline(options.pipeline, config, folder, options.image, options.cache_claim)
    return path, arguments(options.pipeline, config, options.only_new)


def _tracking_experiment() -> str:
    from calrec.tracking.runs import EXPERIMENT

    return os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)


def _status(options: argparse.Namespace) -> int:
    from pipelines.kubeflow.connection import connect
    from pipelines.kubeflow.following import runs_table, table
    from pipelines.kubeflow.steps import steps
    from pipelines.kubeflow.submission import specification
    from pipelines.kubeflow.watching import ending

    if not 1 <= options.last <= 200:  # what the server gives at once
        raise ValueError(f"--last must be 1 to 200, got {options.last}")
    kubeflow = connect(cluster_options.settings(options))
    if not options.run_id:
        newest = {"sort_by": "created_at desc", "page_size": options.last, **kubeflow.scope}
        listed = kubeflow.ask(lambda: kubeflow.runs.run_service_list_runs(**newest), "list the runs")
        print("\n".join(runs_table(listed.runs or [])))
        return 0
    run = _run(kubeflow, options.run_id)
    known = specification(kubeflow, run)
    print("\n".join([*table(steps(run, known)), "", *ending(kubeflow, run, known)]))
    print(f"page        {kubeflow.link(f'runs/details/{run.run_id}')}")
    return 0


def _run(kubeflow: "Kubeflow", run_id: str) -> Any:
    from pipelines.kubeflow.connection import RefusedError

    try:
        return kubeflow.ask(lambda: kubeflow.runs.run_service_get_run(run_id), f"look at run {run_id}")
    except RefusedError as error:
        if error.status not in (400, 404):
            raise
        raise ValueError(f"there is no run {run_id!r}; calrec status lists them") from None


def _logs(options: argparse.Namespace) -> int:
    from pipelines.kubeflow.connection import connect
    from pipelines.kubeflow.logs import Pods, logs
    from pipelines.kubeflow.steps import DONE
    from pipelines.kubeflow.submission import specification

    settings = cluster_options.settings(options)
    kubeflow = connect(settings)
    run = _run(kubeflow, options.run_id)
    pods = Pods(run.run_id, specification(kubeflow, run), kubeflow.namespace)
    going = lambda: _run(kubeflow, run.run_id).state not in DONE  # noqa: E731
    try:
        if logs(pods, options.step, sys.stdout, going, options.follow):
            return 0
    except KeyboardInterrupt:  # how --follow is left
        return 130
    print(
        f"no pod of run {run.run_id} is left in namespace {pods.namespace}: they are deleted some time after the run. "
        f"If the server archives logs they are at {kubeflow.link(f'runs/details/{run.run_id}')}, step by step, and in "
        "its bucket; with a tracking server the reports are in MLflow.",
        file=sys.stderr,
    )
    return 1
