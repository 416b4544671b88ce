"""The run of a whole pipeline in MLflow, the parent of its steps' runs: found, given a status, and described by them.

Several processes write to a parent at once, and none of them is the last. So each writes what it sees, looks again, and
writes again until it sees what it wrote: then the last writer has seen everything.
"""

import re
from collections.abc import Mapping
from typing import Any

from calrec.tracking import limits

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as the description of a run."""
_PART = "mlflow.note.calrec."  # tags of a parent, one per part of its description; the UI hides those of mlflow.
_STEP, _DOMAIN, _PARENT = "calrec.step", "calrec.domain", "mlflow.parentRunId"
FOLLOWED = "calrec.followed_by"
"""Tag of an attempt that died without a word: the run of the next one."""
_PAGE = 1000  # runs that are asked for at once


def of_pipeline(client: Any, experiment: str, pipeline_run: str, tags: Mapping[str, str]) -> str:
    """The parent of a pipeline run, found or made.

    Args:
        client: MLflow's.
        experiment: id of the experiment.
        pipeline_run: KFP's id.
        tags: of a new parent.
    """
    found = _tagged(client, experiment, pipeline_run)
    if not found:
        # Parallel first steps may each make one: all then take the oldest, and the others delete theirs.
        own = client.create_run(
            experiment, run_name=f"pipeline {pipeline_run[:8]}", tags={"kfp.run_id": pipeline_run, **tags}
        )
        found = _tagged(client, experiment, pipeline_run)
        if found[0] != own.info.run_id:
            client.delete_run(own.info.run_id)
    return found[0]


def _tagged(client: Any, experiment: str, pipeline_run: str) -> list[str]:
    return [str(run.info.run_id) for run in _with_tag(client, experiment, "kfp.run_id", pipeline_run)]


def _with_tag(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    """Runs with a tag, the oldest first. What may not stand in MLflow's filters is looked for here."""
    chosen = f"tags.`{tag}` = '{value}'" if re.fullmatch(r"[\w.-]+", value) else ""
    found: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [experiment], chosen, max_results=_PAGE, order_by=["attributes.start_time ASC"], page_token=token or None
        )
        found += [run for run in page if run.data.tags.get(tag) == value]
        token = page.token or None
    return found


def update_status(client: Any, parent: str) -> None:
    """Give a parent the status of its steps: RUNNING while one runs, else FAILED or KILLED if one is, else FINISHED.

    Of a step that was tried again the last attempt counts.
    """
    experiment, written = client.get_run(parent).info.experiment_id, ""
    while (status := _status(client, experiment, parent)) != written:
        if status == "RUNNING":
            client.update_run(parent, status=status)
        else:
            client.set_terminated(parent, status)
        written = status


def _status(client: Any, experiment: str, parent: str) -> str:
    last = {_task(run.data.tags): run.info.status for run in _with_tag(client, experiment, _PARENT, parent)}
    found = set(last.values())
    return next((status for status in ("RUNNING", "FAILED", "KILLED") if status in found), "FINISHED")


def _task(tags: Mapping[str, str]) -> tuple[str, str]:
    """What names a task of a pipeline's run: its step and its category. Each attempt of it has a run of its own."""
    return tags.get(_STEP, ""), tags.get(_DOMAIN, "")


def end(client: Any, parent: str, by: str = "", tags: Mapping[str, str] | None = None) -> None:
    """Set the steps KILLED that still stand as RUNNING: they were killed with no time to say so.

    Args:
        client: MLflow's.
        parent: the run of the pipeline.
        by: the run of a new attempt; only earlier attempts of its task are ended, and they name it. Empty: all steps.
        tags: of the new attempt.
    """
    experiment = client.get_run(parent).info.experiment_id
    for run in _with_tag(client, experiment, _PARENT, parent):
        if run.info.status != "RUNNING" or run.info.run_id == by or (by and _task(run.data.tags) != _task(tags or {})):
            continue
        if by:
            client.set_tag(run.info.run_id, FOLLOWED, by)
        client.set_terminated(run.info.run_id, "KILLED")


def describe(client: Any, parent: str, name: str, markdown: str) -> None:
    """Put a part into a parent's description, in the place of the part of that name.

    Parts that are tables with the same header become one table, above the parts in words.
    """
    client.set_tag(parent, _PART + key(name), markdown.strip())
    written = ""
    while (note := _note(client.get_run(parent).data.tags)) != written:
        client.set_tag(parent, NOTE, note)
        written = note


def _note(tags: Mapping[str, str]) -> str:
    tables: dict[str, list[str]] = {}
    words = []
    for text in (tags[name] for name in sorted(tags) if name.startswith(_PART)):
        if text.startswith("|"):
            header, line, *rows = text.splitlines()
            tables.setdefault(f"{header}\n{line}", []).extend(rows)
        else:
            words.append(text)
    return "\n\n".join([*("\n".join([header, *rows]) for header, rows in tables.items()), *words])


def key(name: str) -> str:
    """A name as MLflow takes it in the key of a tag, a metric or a parameter."""
    return re.sub(r"[^\w\-. :/]", "_", name)[: limits.NAME]
