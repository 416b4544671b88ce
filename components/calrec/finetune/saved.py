"""One folder of tensors that can be told to be whole: safetensors files and a state.json, written last."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calrec.artifacts import sealed
from calrec.storage.files import sync

STATE = "state.json"
_FORMAT = 1


class DamagedError(Exception):
    """A folder that is not whole; the message says why."""


def write(folder: Path, tensors: dict[str, dict[str, Tensor]], identity: Any, progress: dict[str, Any]) -> None:
    """Make the folder, with one file per group of tensors; all of it is on the disk when this returns.

    Raises:
        OSError, SafetensorError: the disk is full or broken.
    """
    folder.mkdir()
    files = {}
    for name, group in tensors.items():
        path = folder / f"{name}.safetensors"
        save_file(_apart(group), path)
        files[path.name] = {"sha256": sealed.file_hash(path), "bytes": path.stat().st_size}
    state = {"format": _FORMAT, "fingerprint": sealed.digest(identity), "identity": identity}
    state |= {"progress": progress, "files": files}
    (folder / STATE).write_text(json.dumps(state | {"sha256": sealed.digest(state)}, indent=1))
    for path in [*folder.iterdir(), folder]:
        sync(path)


def read_state(folder: Path, identity: Any) -> dict[str, Any]:
    """What state.json says; the files are not looked at.

    Raises:
        DamagedError: it is missing or was changed after it was written.
        ValueError: another format, or the folder of a run with other settings or inputs.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
        saved, seal = state["format"], state.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{folder / STATE} cannot be read ({getattr(error, 'strerror', None) or repr(error)})"
        ) from error
    remedy = f"choose another --out or remove {folder.parent}"
    if saved != _FORMAT:
        raise ValueError(f"{folder} has format {saved!r}, this program reads format {_FORMAT}; {remedy}")
    if sealed.digest(state) != seal:
        raise DamagedError(f"{folder / STATE} changed after it was written")
    sealed.refuse_other(folder, state["identity"], identity, f"run with its settings and inputs, {remedy}")
    return dict(state)


def verify(folder: Path, state: dict[str, Any]) -> None:
    """DamagedError, unless every file has the size and the hash that state.json says."""
    for name, said in state["files"].items():
        if why := sealed.damage(folder / name, said["bytes"], said["sha256"]):
            raise DamagedError(why)


def load_tensors(folder: Path, state: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a verified folder, on the CPU and apart from the files, which may be deleted then."""
    try:
        return {Path(name).stem: load_file(folder / name, backend="pread") for name in state["files"]}
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{folder} cannot be read ({error})") from error


def _apart(group: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and each with a memory of its own: safetensors refuses tied weights."""
    apart, seen = {}, set()
    for name, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    return apart
