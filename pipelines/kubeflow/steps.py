"""The steps of a run as a person thinks of them, out of the task details that the API gives."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Specification = Mapping[str, Any]

DONE = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
# What the API lists beside the steps: drivers, the container in a step, the turns of a loop.
_MACHINERY = re.compile(r"root|.*-driver|executor(\(\d+\))?|iteration-.*")


@dataclass(frozen=True)
class Step:
    """One line of the table."""

    key: str
    name: str
    depth: int
    state: str
    started: datetime | None
    ended: datetime | None
    error: str
    group: bool


def steps(run: Any, specification: Specification) -> list[Step]:
    """The steps of a run in the order in which they started, those of a loop or sub-pipeline below it.

    The API gives them in no order, and to all the time at which the run was made.

    Args:
        run: a run of the API.
        specification: the compiled pipeline, which knows the display names; empty when it is gone.
    """
    tasks = sorted(_tasks(run), key=lambda task: (moment(task.start_time) or _NEVER, task.display_name or ""))
    by_id = {task.task_id: task for task in tasks}
    known = _known(specification)
    shown = {task.task_id for task in tasks if _is_step(task, known)}

    def above(task: Any) -> list[Any]:
        parent = by_id.get(task.parent_task_id)
        return [*above(parent), parent] if parent else []

    root = ["root"] if any(task.parent_task_id for task in tasks) else []
    children: dict[str, list[tuple[str, Any]]] = {}
    for task in tasks:
        if task.task_id in shown:
            parents = above(task)
            nearest = next((one.task_id for one in reversed(parents) if one.task_id in shown), "")
            name = title(specification, [*root, *(one.display_name for one in (*parents, task))])
            children.setdefault(nearest, []).append((name, task))
    return list(_below("", 0, children, known))


def _below(
    parent: str, depth: int, children: Mapping[str, list[tuple[str, Any]]], known: Mapping[str, bool]
) -> Iterator[Step]:
    here = children.get(parent, [])
    for label, (_, task) in zip(number_turns([name for name, _ in here]), here, strict=True):
        error = task.error.message if task.error and task.error.message else ""
        group = task.task_id in children or known.get(task.display_name, False)
        times = moment(task.start_time), moment(task.end_time)
        yield Step(task.task_id, label, depth, (task.state or "PENDING").lower(), *times, error, group)
        yield from _below(task.task_id, depth + 1, children, known)


def number_turns(names: Sequence[str]) -> list[str]:
    """The turns of a loop told apart: what comes several times gets a number."""
    total, seen = Counter(names), Counter[str]()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(f"{name} [{seen[name]}]" if total[name] > 1 else name)
    return labels


def _tasks(run: Any) -> list[Any]:
    return (run.run_details.task_details if run.run_details else None) or []


def _known(specification: Specification) -> dict[str, bool]:
    """The tasks of the specification by name and display name, and whether each has tasks of its own (a loop …)."""
    found: dict[str, bool] = {}
    for dag in _dags(specification):
        for key, task in dag["tasks"].items():
            group = "dag" in specification["components"][task["componentRef"]["name"]]
            found |= {name: group or found.get(name, False) for name in (key, _display(key, task))}
    return found


def _is_step(task: Any, known: Collection[str]) -> bool:
    name = task.display_name or ""
    if name.endswith("-driver"):
        return bool(task.state == "FAILED")  # then its step never starts
    return name in known if known else bool(name) and not _MACHINERY.fullmatch(name)


def title(specification: Specification, path: Sequence[str]) -> str:
    """Display name of the task at the end of a path of task names, machinery between them allowed.

    A server that tells no parents (2.17) gives a path of one name. Then it is looked for everywhere, and a name that
    two sub-pipelines use for different steps stays as it is.
    """
    name = path[-1].removesuffix("-driver")
    what = " (driver)" if path[-1] != name else ""
    dag, inside = specification.get("root", {}).get("dag", {"tasks": {}}), len(path) > 1
    for parent in path[:-1]:
        task = dag["tasks"].get(parent)
        dag = specification["components"][task["componentRef"]["name"]].get("dag", dag) if task else dag
    dags = [dag] if inside and name in dag["tasks"] else [one for one in _dags(specification) if name in one["tasks"]]
    names = {_display(name, one["tasks"][name]) for one in dags}
    return (names.pop() if len(names) == 1 else name) + what


def _display(key: str, task: Mapping[str, Any]) -> str:
    return str(task.get("taskInfo", {}).get("name") or key)


def _dags(specification: Specification) -> list[Mapping[str, Any]]:
    parts = [specification.get("root", {}), *specification.get("components", {}).values()]
    return [part["dag"] for part in parts if "dag" in part]


def from_cache(run: Any) -> int:
    """How many steps took their outputs from the cache: their container was not started."""
    return sum(task.display_name == "executor" and task.state == "SKIPPED" for task in _tasks(run))


_NEVER = datetime.max.replace(tzinfo=UTC)


def moment(time: datetime | None) -> datetime | None:
    """A time of the API; None for what has not happened yet, which it may write as 1970."""
    if time is None or time.year <= 1970:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def seconds(started: datetime | None, ended: datetime | None, now: datetime) -> str:
    """A duration for people: 42 s, 1 m 12 s, 3 h 05 m."""
    if started is None:
        return ""
    total = max(0, int(((ended or now) - started).total_seconds()))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} m {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} m"
