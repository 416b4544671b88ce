"""A real PostgreSQL for a test."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """Gives the variables that say where it is; the user and the database are mlflow. It does not run as root."""
    port, root = free_port(), os.geteuid() == 0
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if root else {}

    def run(*command: str) -> None:
        done = subprocess.run([str(POSTGRES / command[0]), *command[1:]], **user, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    # Not below pytest's folders, which are closed to the user postgres.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if root:
            shutil.chown(folder, "postgres")
        (folder / "password").write_text("a: b/c@d%e")
        data, options = ["-D", str(folder / "data")], f"-p {port} -c listen_addresses=127.0.0.1 -k ''"
        run("initdb", *data, "-U", "mlflow", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
        run("pg_ctl", *data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGPASSWORD": "a: b/c@d%e"}
        try:
            subprocess.run([POSTGRES / "createdb", "-U", "mlflow", "mlflow"], env=where, check=True)
            yield where
        finally:
            run("pg_ctl", *data, "-m", "fast", "stop")
