"""What a step may replace, who may write, and what a kill leaves."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from calrec import artifacts
from calrec.artifacts import Manifest, output, places
from calrec.cli.__main__ import main
from calrec.storage import files
from tests.conftest import REPO, write_sequences


def make(out: Path, text: str = "new", inputs: object = ()) -> Manifest:
    with artifacts.writing(out, "decision", (inputs,)) as folder:
        (folder / "decision.md").write_text(text)
        return artifacts.finish(folder, Manifest("decision"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is not ours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["home", "home/data", "home/data/made", "home/..", ".", "..", "/"])
def test_a_log_is_not_deleted_by_its_own_ingest(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch, capsys):
    write_sequences(tmp_path / "work/home/data")
    (tmp_path / "work/home/notes.txt").write_text("mine")
    before = content(tmp_path)
    monkeypatch.chdir(tmp_path / "work")
    assert main(["ingest", "--source", "home/data", "--out", out]) == 2
    assert "--out" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_what_calrec_did_not_write_is_not_replaced(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    make(out, "old")  # an empty folder is free
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="out holds notes.txt, which calrec did not write; empty the folder, or give"):
        make(out)
    (out / "notes.txt").unlink()
    make(out)
    assert (out / "decision.md").read_text() == "new"
    with (
        pytest.raises(ValueError, match=r"out holds calrec.decision/1, and calrec.texts would take its place"),
        artifacts.writing(out, "texts"),
    ):
        pass
    for name, text in (("package.json", "{}"), (artifacts.MANIFEST, '{"name": "app"}'), (artifacts.MANIFEST, "[]")):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / name).write_text(text)
        with pytest.raises(ValueError, match=r"no manifest.json of calrec|is not one of calrec"):
            make(other)
        assert (other / name).read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_what_comes_into_the_old_folder_meanwhile_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    make(out, "old")
    for number in (1, 2):
        with artifacts.writing(out, "decision") as folder:
            (out / "notes.txt").write_text("mine")
            (folder / "decision.md").write_text("new")
            artifacts.finish(folder, Manifest("decision"))
        assert content(tmp_path / f"out.kept-{number}")["notes.txt"] == b"mine"
        assert f"which calrec did not write; the old folder is kept as out.kept-{number}" in capsys.readouterr().out
        artifacts.read_verified(out, "decision")


@pytest.mark.parametrize("how", ["is", "holds", "lies in"])
@pytest.mark.parametrize("linked", [False, True])
def test_an_input_is_not_replaced(tmp_path: Path, how: str, linked: bool):
    given = tmp_path / "data/given"
    make(given)
    named = tmp_path / "data/given"
    if linked:
        (tmp_path / "link").symlink_to(tmp_path / "data")
        named = tmp_path / "link/given"
    out = {"is": given, "holds": given.parent, "lies in": given / "out"}[how]
    for inputs in (named, str(named), [None, {"books": named}]):
        with pytest.raises(ValueError, match=f"{how} {named}, which is read; give another --out"):
            places.check_out(out, "decision", (inputs,))
    assert artifacts.read_verified(given, "decision")


def test_a_step_refuses_its_input_before_it_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for step in ("textify --data x", "model --texts x --tokens-out t"):
        assert main([*step.split(), "--out", "x"]) == 2
        assert "x is x, which is read; give another --out" in capsys.readouterr().err.replace(f"{Path.cwd()}/", "")
    assert main(["model", "--texts", "x", "--tokens-out", "out/t", "--out", "out"]) == 2
    assert "out holds out/t, which is read" in capsys.readouterr().err


def test_the_source_of_a_glob_and_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.csv", "b/y.csv", "c,d/z.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    assert files.roots("a/*.csv, b,gs://shop/x,https://web/y") == [Path("a/x.csv"), Path("b")]
    assert files.roots("c,d") == [Path("c,d")]
    assert files.roots("c[,]d,b") == [Path("c,d"), Path("b")]
    assert files.roots("sample:DELI") == []


# --- a bad --out --------------------------------------------------------------------------------------------------


def test_a_bad_out_is_refused_before_the_work(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, message in (
        ("file", "file is a file; give --out a folder"),
        ("file/out", "file is a file, so nothing can lie in it"),
        ("link", "link is a link to folder; give --out the place itself"),
        ("dangling", "dangling is a link to nowhere"),
    ):
        with pytest.raises(ValueError, match=message), artifacts.writing(tmp_path / name, "decision"):
            raise AssertionError("the work began")
    with pytest.raises(ValueError, match="shm holds|shm is where a disk is mounted"):
        places.check_out(Path("/dev/shm"))
    make(tmp_path / "link/out")  # links above it are the user's affair
    assert artifacts.read_verified(tmp_path / "folder/out", "decision")


def test_a_full_disk_is_said(tmp_path: Path):
    with (
        pytest.raises(OSError, match=r"out: no room left on its disk \(.*No space left.*\); free some, or"),
        artifacts.writing(tmp_path / "out", "decision"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="no room left"), artifacts.writing(tmp_path / "out"):
        raise OSError("1000 requested and 24 written")  # numpy
    with pytest.raises(OSError, match="other") as error, artifacts.writing(tmp_path / "out"):
        raise OSError(errno.EIO, "other")
    assert error.value.errno == errno.EIO


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [("size=16k", 1, "no room left on the disk of"), ("ro", 2, "may not be written to by user 0; give another --out")],
)
def test_a_full_and_a_read_only_disk_are_refused_before_the_work(tmp_path: Path, options: str, code: int, message: str):
    script = (
        f"mount -t tmpfs -o {options} none {tmp_path} && "
        f"{sys.executable} -m calrec.cli textify --data x --out {tmp_path}/out"
    )
    ran = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=child())
    if "ermitted" in ran.stderr or "mount:" in ran.stderr or "unshare:" in ran.stderr:
        pytest.skip("no file system can be mounted here")
    assert (ran.returncode, message in ran.stderr) == (code, True), ran.stderr


# --- one writer ---------------------------------------------------------------------------------------------------


def child() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPO / 'components'}:{REPO}"}


HOLDS = """
import sys, time
from pathlib import Path
from calrec.artifacts import output
with output.claim(Path(sys.argv[1]), "decision"):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_the_second_writer_is_told_who_has_the_folder(tmp_path: Path):
    make(tmp_path / "out", "old")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "out")], env=child(), stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"has it\n"
        who = rf"out: process {first.pid} on {os.uname().nodename}, since 20.* UTC, writes to it; wait for it"
        with pytest.raises(ValueError, match=who):
            make(tmp_path / "out")
        assert (tmp_path / "out/decision.md").read_text() == "old"
        first.kill()
    make(tmp_path / "out")  # the lock ends with its process
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_threads_are_two_writers(tmp_path: Path):
    found: list[str] = []

    def second() -> None:
        try:
            make(tmp_path / "out")
        except ValueError as error:
            found.append(str(error))

    with output.claim(tmp_path / "out", "decision"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        with artifacts.writing(tmp_path / "out") as folder:  # the same thread goes on
            (folder / "decision.md").write_text("first")
            artifacts.finish(folder, Manifest("decision"))
    assert f"process {os.getpid()} on" in found[0]
    assert (tmp_path / "out/decision.md").read_text() == "first"


def test_one_after_the_other_many_writers_leave_one_whole_folder(tmp_path: Path):
    def write(number: int) -> None:
        for _ in range(20):
            try:
                make(tmp_path / "out", str(number))
            except ValueError:
                time.sleep(0.001)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    artifacts.read_verified(tmp_path / "out", "decision")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path):
    made = [files.new_folder(tmp_path / "runs/20261130-120000").name for _ in range(3)]
    assert made == ["20261130-120000", "20261130-120000-2", "20261130-120000-3"]


# --- kills --------------------------------------------------------------------------------------------------------

WRITES = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "")
from tests.artifacts.test_output import make
from calrec.artifacts import output
calls, at, place = 0, int(sys.argv[2]), Path(sys.argv[1])

def kills(frame, event, argument):
    global calls
    code = frame.f_code
    if code.co_filename == output.__file__ or code.co_name in ("rename", "sync", "rmtree"):
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
    return kills

sys.settrace(kills)
make(place, "new")
sys.settrace(None)
print(calls)
"""


def write_until(out: Path, line: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", WRITES, str(out), str(line)], env=child(), capture_output=True, cwd=REPO
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return int(done.stdout or -1)


def check_a_kill(tmp_path: Path, line: int) -> bool:
    """Whether the writer was killed at this line; then one whole folder is there, and the next writer succeeds."""
    folder = tmp_path / str(line)
    out = folder / "out"
    make(out, "old")
    killed = write_until(out, line) < 0
    artifacts.read_manifest(out, "decision")
    artifacts.read_verified(out, "decision")
    assert (out / "decision.md").read_text() in ("old", "new")
    make(out, "newest")
    assert (out / "decision.md").read_text() == "newest"
    assert [path.name for path in folder.iterdir()] == ["out"]
    return killed


def test_a_kill_between_the_renames_is_mended_by_the_next_reader(tmp_path: Path):
    out = tmp_path / "out"
    make(out, "old")
    out.rename(tmp_path / ".out.calrec-old")
    (tmp_path / ".out.calrec-new-01234567").mkdir()
    assert artifacts.read_manifest(out, "decision").kind == "decision"
    assert (out / "decision.md").read_text() == "old"
    make(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_kill_9_while_a_folder_is_replaced(tmp_path: Path):
    make(tmp_path / "out", "old")
    lines = write_until(tmp_path / "out", -1)
    assert lines > 100
    assert [check_a_kill(tmp_path, line) for line in range(lines - 40, lines, 4)].count(True) > 5


@pytest.mark.long
def test_kill_9_at_every_line(tmp_path: Path):
    make(tmp_path / "out", "old")
    lines = write_until(tmp_path / "out", -1)
    assert [check_a_kill(tmp_path, line) for line in range(1, lines)].count(True) > 100


def test_a_manifest_knows_nothing_of_locks(tmp_path: Path):
    with artifacts.writing(tmp_path / "out", "decision") as folder:
        (folder / "decision.md").write_text("x")
        (folder / places.LOCK).write_text("process 1")
        made = artifacts.finish(folder, Manifest("decision"))
    assert list(made.files) == ["decision.md"]
    assert json.loads((tmp_path / "out" / artifacts.MANIFEST).read_text())["schema"] == "calrec.decision/1"
