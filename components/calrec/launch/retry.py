"""A training that broke off for a passing reason is tried once more in the same pod, from the checkpoint it left.

A pipeline's own retry starts a new pod and, where the cluster's policy is OnError, does not come at all when a step
ends with an error (manifests/README.md, "Retries").
"""

import builtins
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from calrec.artifacts import Manifest
from calrec.config import StageConfig
from calrec.launch import stage as launch
from calrec.launch.shared_folder import TrainingError
from calrec.storage import uris

_STEP = re.compile(r"([0-9a-f]+/step-\d{8,})/")  # not one with .partial or .old behind it, which is not whole
# A process that was killed is seen by the others as a connection that ends; who is first says what went wrong.
_ENDED = re.compile(r"(closed|reset) by peer|Broken pipe|Connection (closed|reset)|Socket Timeout", re.IGNORECASE)
_LASTING = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


def finetune(
    texts: Path, tokens: Path, model: Path, out: Path, *, stage: StageConfig, checkpoints: str = "",
    name: str = "stage1", **settings: Any,
) -> Manifest | None:  # fmt: skip
    """:func:`calrec.launch.stage.finetune`, once more if its work goes on from a checkpoint that this attempt wrote.

    Raises:
        Exception: as there; that of the second attempt when there was one.
    """
    arguments: dict[str, Any] = {"stage": stage, "checkpoints": checkpoints, "name": name, **settings}
    before = {*_here(out), *_there(checkpoints)} if stage.steps else set()
    try:
        return launch.finetune(texts, tokens, model, out, **arguments)
    except OSError as error:
        launcher = settings["launch"].launcher
        after = {*_there(checkpoints)} if launcher == "trainjob" else {*_here(out)}
        if not passing(error) or after <= before:
            raise
        print(f"{name}: {type(error).__name__}: {error}\n{name}: once more, from the last checkpoint", flush=True)
    return launch.finetune(texts, tokens, model, out, **arguments)  # here the failed attempt holds no memory any more


def passing(error: OSError) -> bool:
    """Whether the same work may succeed a moment later: a connection, a disk, a killed process; not a wrong setting."""
    if isinstance(error, TrainingError):
        kind = getattr(builtins, error.why.partition(":")[0], None)
        lasting = not (isinstance(kind, type) and issubclass(kind, OSError)) or issubclass(kind, _LASTING)
        return not error.why or bool(_ENDED.search(error.why)) or not lasting
    return not isinstance(error, (*_LASTING, ChildProcessError))


def _here(out: Path) -> Sequence[str]:
    """Checkpoints beside the output, as RUN/step-N: the name that their copies have elsewhere."""
    names = []
    for path in Path(out).with_name(f"{Path(out).name}.checkpoint").glob("step-*/state.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged: the trainer says so
            names.append(f"{json.loads(path.read_bytes())['fingerprint'][:12]}/{path.parent.name}/")
    return _steps(names)


def _there(checkpoints: str) -> Sequence[str]:
    return _steps(uris.folder(checkpoints).names() if checkpoints else [])


def _steps(names: Sequence[str]) -> list[str]:
    return [found[1] for name in names if (found := _STEP.match(name))]
