"""The command `schedule`: apply, list, pause, resume, delete."""

import argparse
import re
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calrec.cli.options import add_run_options, configuration
from calrec.config import Config
from pipelines import PIPELINES
from pipelines.kubeflow import options as cluster_options
from pipelines.kubeflow.options import command

if TYPE_CHECKING:
    from pipelines.kubeflow.connection import Kubeflow
    from pipelines.kubeflow.recurring import Recurring

_APPLY = """examples:
  calrec schedule apply nightly --cron '0 3 * * *' --image REGISTRY/calrec@sha256:... \\
      --source books=gs://shop/books --target books
  calrec schedule apply hourly batch --cron @hourly --image REGISTRY/calrec@sha256:... ...

cron: minute, hour, day of month, month, day of week; six fields have the second first. The time zone is the one of the
server's controller (CRON_SCHEDULE_TIMEZONE), UTC by default; the times that are printed are those of a server in UTC.

Applying again changes nothing; with another cron, setting or image it changes the schedule of this name, of which there
is always one. A paused schedule stays paused. A training run looks for new data when it starts, and ends if there is
none, unless --every-run is given. One run at a time; a run that is going on when the schedule changes goes on."""

_TIME = "%a %Y-%m-%d %H:%M:%S"


def add(commands: Any) -> None:
    """Add the verb `schedule`."""
    text = "run a pipeline again and again: Kubeflow's recurring runs"
    schedule = commands.add_parser("schedule", help=text, description=f"{text[0].upper()}{text[1:]}.")
    actions = schedule.add_subparsers(required=True, metavar="ACTION")

    apply = command(actions, "apply", "make a schedule what it should be, whatever it is", _APPLY)
    apply.add_argument("name", metavar="NAME", help="of the schedule")
    apply.add_argument("pipeline", nargs="?", default="training", choices=PIPELINES, help="default: training")
    apply.add_argument("--cron", required=True, help="when, for example '0 3 * * *'; see below")
    add_run_options(apply)
    cluster_options.add_run(apply)
    apply.add_argument("--every-run", action="store_true", help="train also when no source has new data")
    cluster_options.add(apply)
    apply.set_defaults(command=_apply)

    for name, text, action in (
        ("list", "the schedules, when they run next, and how their last run ended", _list),
        ("pause", "let a schedule start no runs; one that is going on goes on", _pause),
        ("resume", "let a paused schedule start runs again", _resume),
        ("delete", "delete a schedule; a run that is going on goes on", _delete),
    ):
        parser = command(actions, name, text)
        if name != "list":
            parser.add_argument("name", metavar="NAME", help="of the schedule")
        if name == "delete":
            parser.add_argument("--yes", action="store_true", help="do not ask")
        cluster_options.add(parser)
        parser.set_defaults(command=action)


def _apply(options: argparse.Namespace) -> int:
    from pipelines.compiling import arguments, compile_pipeline
    from pipelines.kubeflow import changes, cron, submission
    from pipelines.kubeflow.connection import connect
    from pipelines.kubeflow.recurring import Wanted, last_run
    from pipelines.kubeflow.steps import DONE
    from pipelines.validation import sound

    when, config = cron.parse_cron(options.cron), configuration(options)
    _check(options, config)
    with tempfile.TemporaryDirectory(prefix="calrec-") as folder:
        path = compile_pipeline(options.pipeline, config, Path(folder), options.image, options.cache_claim)
        specification = sound(path)
        kubeflow = connect(cluster_options.settings(options))
        version = submission.pipeline_version(kubeflow, specification["pipelineInfo"]["name"], path)
    parameters = arguments(options.pipeline, config, options.pipeline == "training" and not options.every_run)
    experiment = submission.experiment(kubeflow, options.experiment)
    wanted = Wanted(options.name, when, version, experiment, parameters, options.service_account)
    now = changes.apply(kubeflow, wanted, lambda text: print(f"{options.name}: {text}", flush=True))
    print(f"schedule    {now.name} ({now.id}), {'on' if now.enabled else 'paused; see schedule resume'}")
    print(f"version     {version.name} ({'known to the server' if version.reused else 'uploaded'})")
    print(f"cron        {now.cron} (second first)")
    _show_firings(now)
    print(f"page        {kubeflow.link(f'recurringrun/details/{now.id}')}")
    run = last_run(kubeflow, now)
    if run and run.state not in DONE and run.recurring_run_id != now.id:
        print(f"note        run {run.run_id}, from before the change, goes on; the next run does not wait for its end")
    return 0


def _show_firings(one: "Recurring") -> None:
    for number, time in enumerate(one.firings(datetime.now(UTC), 3)):
        print(f"{'' if number else 'next':12}{time.strftime(_TIME)} UTC{'' if one.enabled else ', were it not paused'}")


def _check(options: argparse.Namespace, config: Config) -> None:
    """What can be wrong before the server is asked."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", options.name):
        raise ValueError(
            f"a schedule's name has 1 to 63 letters, digits, '-', '_' and '.', and begins with a letter or digit; got "
            f"{options.name!r}"
        )
    for source in config.sources:
        if source.snapshot:
            raise ValueError(
                f"source {source.domain!r} has snapshot {source.snapshot!r}: each run would read the same data; leave "
                "it empty, and each run finds it when it starts"
            )
    if options.every_run and options.pipeline != "training":
        raise ValueError(f"--every-run is for training; leave it out for {options.pipeline}, of which each run works")
    cluster_options.warn_of_tag(options.image, "what later runs do may change")


def _list(options: argparse.Namespace) -> int:
    from pipelines.kubeflow import recurring
    from pipelines.kubeflow.connection import connect

    kubeflow = connect(cluster_options.settings(options))
    names = recurring.all_names(kubeflow)
    if not names:
        print("no schedules; make one with calrec schedule apply")
        return 0
    rows: list[tuple[str, ...]] = [("NAME", "CRON", "NEXT (UTC)", "STATE", "PIPELINE VERSION", "LAST RUN")]
    rows += [_row(kubeflow, found[-1]) for found in names.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for name, found in names.items():
        start = found[-1].start
        if len(found) > 1 or (start and start > datetime.now(UTC)):
            print(f"{name}: a change was not finished ({len(found)} recurring runs); run its schedule apply again")
    return 0


def _row(kubeflow: "Kubeflow", one: "Recurring") -> tuple[str, ...]:
    from pipelines.kubeflow.recurring import last_run, version_name

    coming = one.firings(datetime.now(UTC)) if one.enabled else []
    run = last_run(kubeflow, one)
    ended = f"{(run.state or 'PENDING').lower()}, {run.created_at:{_TIME}}" if run else "none yet"
    return (
        one.name,
        one.cron or "no cron",
        coming[0].strftime(_TIME) if coming else "-",
        "on" if one.enabled else "paused",
        version_name(kubeflow, one),
        ended,
    )


def _named(options: argparse.Namespace) -> tuple["Kubeflow", list["Recurring"]]:
    from pipelines.kubeflow import recurring
    from pipelines.kubeflow.connection import connect

    kubeflow = connect(cluster_options.settings(options))
    found = recurring.of_name(kubeflow, options.name)
    if not found:
        known = ", ".join(recurring.all_names(kubeflow)) or "there are none; make one with schedule apply"
        raise ValueError(f"there is no schedule {options.name!r}; known: {known}")
    return kubeflow, found


def _pause(options: argparse.Namespace) -> int:
    from pipelines.kubeflow.recurring import switch

    kubeflow, found = _named(options)
    for one in found:
        if one.enabled:
            switch(kubeflow, one, on=False)
    print(f"{options.name} is paused; calrec schedule resume {options.name}")
    return 0


def _resume(options: argparse.Namespace) -> int:
    from pipelines.kubeflow.recurring import switch

    kubeflow, found = _named(options)
    if len(found) > 1:
        raise ValueError(
            f"schedule {options.name} has a change that was not finished ({len(found)} recurring runs); "
            "run its schedule apply again, then resume it"
        )
    if found[0].enabled:
        print(f"{options.name} was not paused")
        return 0
    switch(kubeflow, found[0], on=True)
    print(f"{options.name} is on. If a time passed while it was paused, the server makes up for the last one at once")
    _show_firings(replace(found[0], enabled=True))
    return 0


def _delete(options: argparse.Namespace) -> int:
    from pipelines.kubeflow import recurring

    kubeflow, found = _named(options)
    if not options.yes and sys.stdin.isatty():
        answer = input(f"delete schedule {options.name} ({found[-1].cron})? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print(f"{options.name} stays")
            return 1
    for one in found:
        recurring.delete(kubeflow, one.id)
    print(f"{options.name} is deleted; its runs stay")
    return 0
