"""The manifest of a step's folder, written last.

A step's output is a folder of Parquet files (or a model) and one `manifest.json`. A folder without a manifest is
incomplete and is refused, as is one of another kind or schema version.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec.artifacts import sealed
from calrec.artifacts.output import restore
from calrec.artifacts.places import LOCK, MANIFEST, RECORD
from calrec.artifacts.schemas import KINDS
from calrec.artifacts.sealed import file_hash


@dataclass(frozen=True)
class Manifest:
    """What a folder holds and how it came to be; the same inputs give the same manifest, so it has no clock."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the step ran with."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """Sizes and rates, for a person and for the tracking server."""
    rules: tuple[Mapping[str, Any], ...] = ()
    """What each cleaning rule dropped: {rule, rows_before, rows_after, …}, in the order of application."""
    notes: tuple[str, ...] = ()
    """Sentences for a person: what was detected, what was decided."""
    warnings: tuple[str, ...] = ()
    """Sentences for a person: what may be wrong, with the setting that changes it. Others follow from the counts."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Content hash of each input folder."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each file but RECORD."""

    @property
    def digest(self) -> str:
        """Content hash of the folder: of its files' hashes, reports left out, which say where the data came from."""
        return short_hash({name: hashed for name, hashed in self.files.items() if not name.startswith("report.")})


def short_hash(value: Any) -> str:
    """Hash of plain values, for names of folders and cache keys."""
    return sealed.digest(value)[:16]


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Hash the folder's files and write its manifest, last; returns the manifest with the hashes."""
    version, names = KINDS[manifest.kind]
    missing = [name for name in names if not (folder / name).is_file()]
    assert not missing, f"{manifest.kind} folder lacks {missing}"
    files = {name: file_hash(path) for name, path in sealed.files(folder).items() if name not in (RECORD, LOCK)}
    manifest = Manifest(**{**manifest.__dict__, "files": files})
    document = {"schema": f"calrec.{manifest.kind}/{version}", "digest": manifest.digest, **manifest.__dict__}
    document.pop("kind")
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    sealed.replace(folder / MANIFEST, lambda path: path.write_text(text))
    return manifest


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """The manifest of a step's output.

    Raises:
        FileNotFoundError: no folder, or no manifest in it (the step that wrote it did not finish).
        ValueError: another kind of folder, another schema version, or a file is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        restore(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; run the step that makes it first")
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {MANIFEST}, so the step that wrote it did not finish; run it again")
    try:
        document = json.loads(path.read_text())
        schema = str(document.pop("schema"))
        digest = document.pop("digest")
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a calrec manifest ({error!r}); run the step again") from None
    found = schema.removeprefix("calrec.").partition("/")[0]
    if kind is not None and found != kind:
        raise ValueError(f"{folder} holds {found!r}, but {kind!r} is needed here; did you swap two arguments?")
    if found not in KINDS:
        raise ValueError(f"{folder}: unknown kind of folder {schema!r}; known: {', '.join(KINDS)}")
    version, names = KINDS[found]
    if schema != f"calrec.{found}/{version}":
        raise ValueError(
            f"{folder} has schema {schema}, this version of calrec reads calrec.{found}/{version}; "
            "run the step again with this version"
        )
    missing = [name for name in {*names, *document["files"]} if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: {', '.join(sorted(missing))} missing; the folder was changed after it was written")
    manifest = Manifest(
        kind=found,
        **{**document, **{name: tuple(document.get(name, ())) for name in ("rules", "notes", "warnings")}},
    )
    if manifest.digest != digest:
        raise ValueError(f"{path}: the digest {digest} does not fit its files; the manifest was changed by hand")
    return manifest


def read_verified(folder: Path, kind: str) -> Manifest:
    """The manifest of a folder whose every file has the hash that stands there.

    Raises:
        ValueError: a file was changed after it was written; and what :func:`read_manifest` raises.
    """
    manifest = read_manifest(folder, kind)
    found = [sealed.damage(Path(folder) / name, sha256=hashed) for name, hashed in manifest.files.items()]
    if any(found):
        raise ValueError(f"{'; '.join(filter(None, found))}; build the folder again")
    return manifest


def write_record(folder: Path, cost: Mapping[str, float], curves: Sequence[Mapping[str, float]] = ()) -> None:
    """Write what a step took beside its output: seconds, tokens, peak_memory_bytes and so on, as far as known."""
    (folder / RECORD).write_text(json.dumps({"cost": dict(cost), "curves": list(curves)}) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote: {"cost": …, "curves": …}; empty in a folder of before.

    Raises:
        ValueError: it is not a record.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
        return {"cost": dict(record["cost"]), "curves": [dict(row) for row in record["curves"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a record of a step ({error!r}); run the step again") from None


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    """Write `table` as zstd Parquet; its schema must be the one that `KINDS` gives to `name`."""
    pq.write_table(table, folder / name, compression="zstd")


def table_writer(folder: Path, name: str, kind: str) -> pq.ParquetWriter:
    """For a table that comes in parts: zstd Parquet with the schema that `KINDS` gives to `name`."""
    schema = KINDS[kind][1][name]
    assert schema is not None, f"{name} is not a table"
    return pq.ParquetWriter(folder / name, schema, compression="zstd")


def read_table(folder: Path, name: str, kind: str) -> pa.Table:
    """A table of a finished folder, its schema checked by name."""
    read_manifest(folder, kind)
    expected = KINDS[kind][1][name]
    assert expected is not None, f"{name} is not a table"
    table = pq.read_table(Path(folder) / name)
    if table.schema.names != expected.names or table.schema.types != expected.types:
        raise ValueError(f"{folder}/{name} has columns {table.schema.names}, expected {expected.names}; run it again")
    return table
