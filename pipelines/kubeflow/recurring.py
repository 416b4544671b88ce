"""Recurring runs of Kubeflow: what is wanted, what the server has, and the calls that make, find and delete them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.kubeflow import cron
from pipelines.kubeflow.connection import Kubeflow, RefusedError, name_filter
from pipelines.kubeflow.steps import moment
from pipelines.kubeflow.submission import Version

_PAGE = 100
_MADE_BY = "Made by calrec schedule apply."
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Wanted:
    """What a schedule shall be."""

    name: str
    cron: cron.Cron
    version: Version
    experiment_id: str
    parameters: Mapping[str, Any]
    service_account: str = ""


@dataclass(frozen=True)
class Recurring:
    """A recurring run as the server has it.

    Attributes:
        id: of the recurring run.
        name: of the schedule; several may have it.
        number: of the change, the highest of a name counts. This and the next three are in its description; 0: none is.
        mark: of the `apply` that made it.
        account: service account that was asked for; empty for the server's default.
        after: ids of its predecessors, the last one first.
        created: when.
        cron: six fields; empty when something else starts it.
        start: it only fires later than this.
        enabled: not paused.
        pipeline_id: what it runs.
        version_id: which version of it.
        experiment_id: where its runs are listed.
        parameters: of its runs.
        alone: one run at a time, and missed times are not made up for one by one.
    """

    id: str
    name: str
    number: int = 0
    mark: str = ""
    account: str = ""
    after: tuple[str, ...] = ()
    created: datetime = _NEVER
    cron: str = ""
    start: datetime | None = None
    enabled: bool = True
    pipeline_id: str = ""
    version_id: str = ""
    experiment_id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = True

    def firings(self, since: datetime, count: int = 1) -> list[datetime]:
        """The first times later than `since`, also of one that is paused; none when its cron is not readable."""
        try:
            return cron.parse_cron(self.cron).next(max(since, self.start or since), count)
        except ValueError:
            return []


def create(
    kubeflow: Kubeflow,
    wanted: Wanted,
    mark: str,
    number: int,
    enabled: bool = True,
    start: datetime | None = None,
    after: tuple[str, ...] = (),
) -> None:
    """Make a recurring run, once even when the answer is lost; for the arguments see `Recurring`."""
    import kfp_server_api as api

    facts = {"number": number, "mark": mark, "account": wanted.service_account, "after": ",".join(after)}
    body = api.V2beta1RecurringRun(
        display_name=wanted.name,
        description=" ".join([_MADE_BY, *(f"{name}={value}" for name, value in facts.items())]),
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            pipeline_id=wanted.version.pipeline_id, pipeline_version_id=wanted.version.version_id
        ),
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(wanted.parameters)),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=wanted.cron.text, start_time=start)),
        mode=api.RecurringRunMode.ENABLE if enabled else api.RecurringRunMode.DISABLE,
        max_concurrency="1",
        no_catchup=True,
        experiment_id=wanted.experiment_id,
        service_account=wanted.service_account or None,
        **kubeflow.scope,
    )

    def find() -> Any:
        made = (one for one in _pages(kubeflow, filter=name_filter(wanted.name)) if _facts(one) == _facts(body))
        return next(made, None)

    kubeflow.ask(
        lambda: kubeflow.recurring.recurring_run_service_create_recurring_run(body),
        f"create schedule {wanted.name}",
        find,
    )


def of_name(kubeflow: Kubeflow, name: str) -> list[Recurring]:
    """The recurring runs of a name, the one that counts last."""
    listed = kubeflow.ask(lambda: list(_pages(kubeflow, filter=name_filter(name))), f"look for schedule {name}")
    # The server takes any case for equal.
    return sorted((one for one in map(read, listed) if one.name == name), key=_order)


def all_names(kubeflow: Kubeflow) -> dict[str, list[Recurring]]:
    """All schedules by name; of each its recurring runs, the one that counts last."""
    listed = kubeflow.ask(lambda: list(_pages(kubeflow)), "list the schedules")
    names: dict[str, list[Recurring]] = {}
    for one in sorted(map(read, listed), key=_order):
        names.setdefault(one.name, []).append(one)
    return dict(sorted(names.items()))


def _order(one: Recurring) -> tuple[int, datetime, str]:
    return one.number, one.created, one.id


def _pages(kubeflow: Kubeflow, **query: str) -> Iterator[Any]:
    token = ""
    while True:
        page = kubeflow.recurring.recurring_run_service_list_recurring_runs(
            page_size=_PAGE, **({"page_token": token} if token else {}), **query, **kubeflow.scope
        )
        yield from page.recurring_runs or []
        token = page.next_page_token
        if not token:
            return


def read(one: Any) -> Recurring:
    """An answer of the API."""
    facts = _facts(one)
    reference, trigger = one.pipeline_version_reference, one.trigger and one.trigger.cron_schedule
    return Recurring(
        id=one.recurring_run_id,
        name=one.display_name,
        number=int(facts.get("number", 0)),
        mark=facts.get("mark", ""),
        account=facts.get("account", ""),
        after=tuple(filter(None, facts.get("after", "").split(","))),
        created=moment(one.created_at) or _NEVER,
        cron=(trigger and trigger.cron) or "",
        start=moment(trigger.start_time) if trigger else None,
        enabled=one.mode == "ENABLE",
        pipeline_id=(reference and reference.pipeline_id) or "",
        version_id=(reference and reference.pipeline_version_id) or "",
        experiment_id=one.experiment_id or "",
        parameters=(one.runtime_config and one.runtime_config.parameters) or {},
        alone=str(one.max_concurrency) == "1" and bool(one.no_catchup),
    )


def _facts(one: Any) -> dict[str, str]:
    """What `create` wrote into the description."""
    text: str = one.description or ""
    return dict(re.findall(r"(\w+)=(\S*)", text)) if text.startswith(_MADE_BY) else {}


def delete(kubeflow: Kubeflow, recurring_run_id: str) -> None:
    """Delete a recurring run, unless it is gone. A run that it has started goes on; by default it would be ended."""
    policy = {"propagation_policy": "ORPHAN"}
    try:
        kubeflow.ask(
            lambda: kubeflow.recurring.recurring_run_service_delete_recurring_run(recurring_run_id, **policy),
            f"delete recurring run {recurring_run_id}",
        )
    except RefusedError as error:
        if error.status != 404:
            raise


def switch(kubeflow: Kubeflow, one: Recurring, on: bool) -> None:
    """Let a recurring run fire, or not."""
    service = "enable" if on else "disable"
    kubeflow.ask(
        lambda: getattr(kubeflow.recurring, f"recurring_run_service_{service}_recurring_run")(one.id),
        f"{service} schedule {one.name}",
    )


def last_run(kubeflow: Kubeflow, one: Recurring) -> Any:
    """The newest run that this one or a predecessor has started, or None."""
    ids = {"operation": "IN", "key": "recurring_run_id", "stringValues": {"values": [one.id, *one.after]}}
    newest = {"filter": json.dumps({"predicates": [ids]}), "sort_by": "created_at desc", "page_size": 1}
    listed = kubeflow.ask(
        lambda: kubeflow.runs.run_service_list_runs(**newest, **kubeflow.scope), f"look for runs of {one.name}"
    )
    return next(iter(listed.runs or []), None)


def version_name(kubeflow: Kubeflow, one: Recurring) -> str:
    """The name of the pipeline version that it runs, or its id when that is gone."""
    if not one.version_id:
        return "latest" if one.pipeline_id else "-"
    try:
        version = kubeflow.ask(
            lambda: kubeflow.pipelines.pipeline_service_get_pipeline_version(one.pipeline_id, one.version_id),
            f"look at pipeline version {one.version_id}",
        )
    except RefusedError as error:
        if error.status != 404:
            raise
        return f"{one.version_id} (deleted)"
    return str(version.display_name)
