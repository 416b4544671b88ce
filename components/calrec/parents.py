"""The run of a whole pipeline in MLflow, the parent of its steps' runs: found, given a status, and described by them.

Several processes write to a parent at once, and none of them is the last. So each writes what it sees, looks again, and
writes again until it sees what it wrote: then whoever wrote last has seen everything.
"""

import re
from collections.abc import Mapping
from typing import Any

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as the description of a run."""
_PART = "mlflow.note.calrec."  # tags of a parent, one per part of its description; the UI hides those of mlflow.
_STEP, _DOMAIN = "calrec.step", "calrec.domain"
_MANY = 10_000  # runs of one pipeline run


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
    runs = client.search_runs(
        [experiment], f"tags.`kfp.run_id` = '{pipeline_run}'", order_by=["attributes.start_time ASC"]
    )
    return [str(run.info.run_id) for run in runs]


def settle(client: Any, parent: str) -> None:
    """Give a parent the status of its steps: RUNNING while one runs, else FAILED or KILLED if one is, else FINISHED.

    Of a step that was tried again the last attempt counts; one before that never ended, as it was killed with no time
    to say so, is set KILLED.
    """
    experiment, written = client.get_run(parent).info.experiment_id, ""
    while (status := _status(client, experiment, parent)) != written:
        if status == "RUNNING":
            client.update_run(parent, status=status)
        else:
            client.set_terminated(parent, status)
        written = status


def _status(client: Any, experiment: str, parent: str) -> str:
    steps = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=_MANY,
        order_by=["attributes.start_time ASC"],
    )  # fmt: skip
    last: dict[tuple[str | None, str | None], Any] = {}
    for run in steps:
        step = run.data.tags.get(_STEP), run.data.tags.get(_DOMAIN)
        if step in last and last[step].info.status == "RUNNING":
            client.set_terminated(last[step].info.run_id, "KILLED")
        last[step] = run
    found = {run.info.status for run in last.values()}
    return next((status for status in ("RUNNING", "FAILED", "KILLED") if status in found), "FINISHED")


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
    return re.sub(r"[^\w\-. :/]", "_", name)
