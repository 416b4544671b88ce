"""A batch's folder after kills at every point is that of a batch that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.artifacts import manifest, sealed
from calrec.recommend import histories
from calrec.recommend.histories import Reject
from calrec.recommend.parts import Parts
from calrec.report.progress import Progress, duration
from calrec.storage.files import Remote

USERS, BATCH, PART, K = 23, 3, 6, 2
FINGERPRINT = {"recommend": {"k": K, "beams": (1, 2)}, "inputs": {"model": "m1"}}


@pytest.fixture(autouse=True)
def _batch_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "KINDS", {"batch": (1, {}), **artifacts.KINDS})


def source(folder: Path) -> Path:
    """Users u0, u1, …; a bad line after every fifth one, and after the last."""
    lines = []
    for user in range(USERS):
        lines.append(json.dumps({"user_id": f"u{user}", "items": ["a"] * user}))
        if user % 5 == 4 or user == USERS - 1:
            lines.append(f"bad {user}")
    path = folder / "histories.jsonl"
    path.write_text("\n".join(lines))
    return path


def table(users: list[histories.History]) -> pa.Table:
    """K rows for each user but every seventh; columns that this test does not know are null."""
    rows = []
    for one in users:
        for rank in range(1, 1 + K if len(one.items) % 7 else 1):
            title = 'ü "t"' if rank == 1 else ""
            rows.append(
                {"user_id": one.user_id, "rank": rank, "item_id": f"i{rank}", "title": title, "score": 1 / rank}
            )
    return pa.Table.from_pylist(rows, schema=artifacts.LISTS)


def run(
    folder: Path,
    out: Path,
    format: str = "parquet",  # noqa: A002
    batches: int = 10**6,
    pause: float = 0,
    remote: Remote | None = None,
) -> bool:
    """Go on with the batch, for some batches; whether it is finished. This is what the step does."""
    rejects: list[Reject] = []
    path = source(folder) if not (folder / "histories.jsonl").exists() else folder / "histories.jsonl"
    with Parts(out, format, FINGERPRINT, PART, remote) as parts:
        if parts.manifest:
            return True
        for number, users in enumerate(histories.read(path, "", parts.done_users, BATCH, rejects.append)):
            if number == batches:
                return False
            parts.append(table(users), len(users), rejects, {"bought": sum(len(one.items) for one in users)})
            rejects.clear()
            time.sleep(pause)
        parts.finish({"items": 9}, rejects, inputs={"model": "m1"})
    return True


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, bytes]:
    assert run(tmp_path, tmp_path / "alone")
    return content(tmp_path / "alone")


def test_a_finished_folder(tmp_path: Path, alone: dict[str, bytes]):
    assert sorted(alone) == [
        "manifest.json", *(f"part-0000{n}.parquet" for n in range(4)), "progress.json", "rejects.parquet",
    ]  # fmt: skip
    found = artifacts.read_manifest(tmp_path / "alone", "batch")
    assert found.counts == {
        "users": 23, "rows": 2 * (23 - 4), "rejects": 5, "bought": 22 * 23 // 2, "parts": 4, "items": 9,
    }  # fmt: skip
    assert found.config["recommend"] == {"k": K, "beams": [1, 2]}
    assert found.inputs == {"model": "m1"}
    everyone = next(histories.read(source(tmp_path), batch=100))
    parts = [pq.read_table(tmp_path / "alone" / f"part-0000{n}.parquet") for n in range(4)]
    assert pa.concat_tables(parts).equals(table(everyone))
    rejects = pq.read_table(tmp_path / "alone" / "rejects.parquet").to_pylist()
    assert [one["raw"] for one in rejects] == ["bad 4", "bad 9", "bad 14", "bad 19", "bad 22"]
    assert rejects[0] == {"where": "line 6", "reason": "not JSON", "raw": "bad 4"}


def test_a_finished_folder_is_left_alone(tmp_path: Path, alone: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, tmp_path / "alone")
    assert "alone is finished, with the same settings and inputs; nothing to do" in capsys.readouterr().out
    with Parts(tmp_path / "alone", "parquet", FINGERPRINT, 1) as parts:
        assert parts.done_users == USERS
        assert parts.manifest == parts.finish() == artifacts.read_manifest(tmp_path / "alone")
    assert content(tmp_path / "alone") == alone


def test_parquet_and_jsonl_have_equal_content(tmp_path: Path):
    for name in ("parquet", "jsonl"):
        run(tmp_path, tmp_path / name, name)
    rows = [row for n in range(4) for row in pq.read_table(tmp_path / "parquet" / f"part-0000{n}.parquet").to_pylist()]
    objects = [json.loads(line) for n in range(4) for line in (tmp_path / "jsonl" / f"part-0000{n}.jsonl").open()]
    assert [{"user_id": one["user_id"], **row} for one in objects for row in one["items"]] == rows
    assert len(objects) == len({one["user_id"] for one in objects}) == 23 - 4
    assert "ü" in (tmp_path / "jsonl" / "part-00000.jsonl").read_text(encoding="utf-8")
    tables = [pq.read_table(tmp_path / name / "rejects.parquet") for name in ("parquet", "jsonl")]
    assert tables[0].equals(tables[1])


def test_no_users(tmp_path: Path):
    for name in ("parquet", "jsonl"):
        with Parts(tmp_path / name, name, {}, 5) as parts:
            made = parts.finish()
        assert made.counts == {"users": 0, "rows": 0, "rejects": 0, "parts": 1}
    assert pq.read_table(tmp_path / "parquet" / "part-00000.parquet").schema.equals(artifacts.LISTS)
    assert pq.read_table(tmp_path / "parquet" / "rejects.parquet").num_rows == 0


# --- kills ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", range(9))
def test_going_on_after_any_batch(tmp_path: Path, alone: dict[str, bytes], batches: int):
    assert run(tmp_path, tmp_path / "out", batches=batches) == (batches >= 8)
    assert run(tmp_path, tmp_path / "out", batches=1) == (batches >= 8)
    assert run(tmp_path, tmp_path / "out")
    assert content(tmp_path / "out") == alone


class KilledError(Exception):
    pass


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_kill_before_and_after_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str):  # noqa: A002
    """Each write of the whole batch is once the last: torn aside, whole aside, and whole in its place."""
    assert run(tmp_path, tmp_path / "alone", format)
    expected = content(tmp_path / "alone")
    real, calls, at = sealed.replace, 0, (0, "")

    def replace(path: Path, write: Callable[[Path], None]) -> None:
        nonlocal calls
        calls += 1
        if calls != at[0]:
            return real(path, write)
        if at[1] == "after":
            real(path, write)
        else:
            aside = path.with_name(f".{path.name}.tmp")
            write(aside)
            if at[1] == "torn":
                aside.write_bytes(aside.read_bytes()[:-5])
        raise KilledError

    monkeypatch.setattr(sealed, "replace", replace)
    monkeypatch.setattr(sealed, "sync", lambda path: None)  # no power fails here, and it takes most of the time
    assert run(tmp_path, tmp_path / "counted", format)
    total, states = calls, set()
    assert total == 1 + 4 * 3 + 2 + 1  # start; each part, its rejects, progress; all rejects, progress; manifest
    for number in range(1, total + 1):
        for moment in ("torn", "before", "after"):
            calls, at, out = 0, (number, moment), tmp_path / f"{number}{moment}"
            with pytest.raises(KilledError):
                run(tmp_path, out, format)
            states.add(tuple(sorted(path.name for path in out.iterdir())))
            at = (0, "")
            assert run(tmp_path, out, format)
            assert content(out) == expected
    assert len(states) > total


def test_a_kill_while_rejects_are_removed(tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    real = Path.unlink

    def unlink(self: Path, *args: Any) -> None:
        real(self, *args)
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(Path, "unlink", unlink)
        run(tmp_path, tmp_path / "out")
    assert 0 < len(list((tmp_path / "out").glob("rejects-*"))) < 4
    assert run(tmp_path, tmp_path / "out")
    assert content(tmp_path / "out") == alone


def test_progress_without_its_part(tmp_path: Path, alone: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    for name in ("part-00001.parquet", "rejects-00001.parquet", "part-00002.parquet"):
        out = tmp_path / name
        run(tmp_path, out, batches=6)
        (out / name).unlink()
        with Parts(out, "parquet", FINGERPRINT, PART) as parts:
            assert parts.done_users == (12 if name == "part-00002.parquet" else 6)
            assert parts.counts["users"] == parts.done_users
        assert "are missing or changed; written again from there" in capsys.readouterr().out
        assert run(tmp_path, out)
        assert content(out) == alone
    run(tmp_path, tmp_path / "cut", batches=4)
    (tmp_path / "cut" / "part-00000.parquet").write_bytes(b"PAR1")
    assert run(tmp_path, tmp_path / "cut")
    assert content(tmp_path / "cut") == alone


def test_a_part_without_progress_and_half_written_files(tmp_path: Path, alone: dict[str, bytes]):
    out = tmp_path / "out"
    run(tmp_path, out, batches=4)
    for name in ("part-00002.parquet", "rejects-00002.parquet", "part-00009.parquet", ".progress.json.tmp"):
        (out / name).write_bytes(b"half")
    with Parts(out, "parquet", FINGERPRINT, PART) as parts:
        assert parts.done_users == 12
    assert run(tmp_path, out)
    assert content(out) == alone


CHILD = """
import sys
from pathlib import Path
from calrec.artifacts import manifest
manifest.KINDS = {"batch": (1, {}), **manifest.KINDS}
from tests.recommend.test_parts import run
run(Path(sys.argv[1]), Path(sys.argv[2]), pause=0.02)
"""


def test_kill_9(tmp_path: Path, alone: dict[str, bytes]):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(out)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    while not (out / "part-00000.parquet").exists():
        assert child.poll() is None
        time.sleep(0.001)
    with pytest.raises(
        ValueError,
        match=rf"process {child.pid} on .*, since .* UTC, writes to it; wait for it, or give another",
    ):
        Parts(out, "parquet", FINGERPRINT, PART)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    assert run(tmp_path, out)
    assert content(out) == alone


# --- other folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [4, 100])
def test_another_fingerprint(tmp_path: Path, batches: int):
    out = tmp_path / "out"
    run(tmp_path, out, batches=batches)
    before = content(out)
    other = {"recommend": {"k": 9, "beams": [1, 2]}, "inputs": {}}
    with pytest.raises(
        ValueError, match=r"inputs.model was m1, is absent; recommend.k was 2, is 9; remove the folder or"
    ):
        Parts(out, "parquet", other, PART)
    with pytest.raises(ValueError, match="format was parquet, is jsonl; remove"):
        Parts(out, "jsonl", FINGERPRINT, PART)
    assert content(out) == before


def test_other_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path, tmp_path / "out", batches=4)
    wider = artifacts.LISTS.append(pa.field("later", pa.int8()))
    monkeypatch.setattr(artifacts, "LISTS", wider)
    with pytest.raises(ValueError, match="columns.later was absent, is int8"):
        Parts(tmp_path / "out", "parquet", FINGERPRINT, PART)


def test_folders_that_are_no_batch(tmp_path: Path):
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    (tmp_path / "volume" / ".notes.tmp").write_text("precious")
    Parts(tmp_path / "volume", "parquet", {}, 1).close()
    assert {path.name for path in (tmp_path / "volume").iterdir()} == {"lost+found", ".notes.tmp", "progress.json"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part-00000.parquet").write_text("precious")
    with pytest.raises(ValueError, match=r"holds part-00000.parquet and no progress.json.*give another --out"):
        Parts(tmp_path / "mine", "parquet", {}, 1)
    assert (tmp_path / "mine" / "part-00000.parquet").read_text() == "precious"
    with pytest.raises(ValueError, match="mine/part-00000.parquet is no folder; give another --out"):
        Parts(tmp_path / "mine" / "part-00000.parquet", "parquet", {}, 1)
    with artifacts.writing(tmp_path / "model") as folder:
        for name in ("config.json", "tokenizer.json"):
            (folder / name).write_text("{}")
        artifacts.finish(folder, artifacts.Manifest("model"))
    with pytest.raises(ValueError, match="holds 'model', but 'batch' is needed"):
        Parts(tmp_path / "model", "parquet", {}, 1)
    with pytest.raises(ValueError, match="format must be one of parquet, jsonl; got 'csv'"):
        Parts(tmp_path / "out", "csv", {}, 1)
    with pytest.raises(ValueError, match="users_per_part must be at least 1, got 0"):
        Parts(tmp_path / "out", "parquet", {}, 0)


# --- what a person sees -----------------------------------------------------------------------------------------


def test_progress(capsys: pytest.CaptureFixture[str]):
    now = 100.0
    progress = Progress("recommend books", 50_000, clock=lambda: now)
    for _ in range(12):
        now += 1
        progress.add(100)
    now += 100
    progress.end()
    assert capsys.readouterr().out.splitlines() == [
        "recommend books: 500/50,000 users, 100.0 users/s, ETA 8 min 15 s",
        "recommend books: 1,000/50,000 users, 100.0 users/s, ETA 8 min 10 s",
        "recommend books: 1,200/50,000 users, 10.7 users/s, took 1 min 52 s",
    ]


def test_progress_of_a_later_session(capsys: pytest.CaptureFixture[str]):
    now = 0.0
    progress = Progress("recommend books", 2048, done=1024, clock=lambda: now)
    now = 10.0
    progress.add(512)
    unknown = Progress("recommend", 0, clock=lambda: now)
    now = 20.0
    unknown.add(5)
    assert capsys.readouterr().out.splitlines() == [
        "recommend books: going on after 1,024 users",
        "recommend books: 1,536/2,048 users, 51.2 users/s, ETA 10 s",
        "recommend: 5 users, 0.5 users/s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (574, "9 min 34 s"), (7500, "2 h 5 min"), (270_000, "3 d 3 h")],
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text
