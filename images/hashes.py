"""`make hashes`: write what the image installs, each file by its hash, to images/requirements-*.txt.

The versions are those of constraints.txt, the hashes those of the index that pip uses here, and for this platform: run
it on one with the architecture of the nodes. For CUDA, where the index gives that torch: make hashes ACCELERATOR=cuda.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What installs and builds in the Dockerfile, and writes the list of what is in the image; none of it stays in there.
TOOLS = ("pip==26.3", "hatchling==1.33.0", "setuptools", "wheel", "cyclonedx-bom==7.5.0")


def needed() -> list[str]:
    """The package's own requirements, with those of the extra that the image has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["pipeline"]]


def resolved(requirements: list[str], *options: str) -> list[str]:
    """The lines of a requirements file with all that these need."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, *options, *requirements], stdout=subprocess.PIPE, check=True, text=True)
    lines = []
    for one in json.loads(done.stdout)["install"]:
        # torch's local version, +cpu, is another file of the same version: the hash says which.
        name, version = one["metadata"]["name"].lower().replace("_", "-"), one["metadata"]["version"].partition("+")[0]
        lines.append(f"{name}=={version} --hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}")
    return sorted(lines)


def main(accelerator: str) -> None:
    """Write both files."""
    constraints = ("-c", str(ROOT / "constraints.txt"))
    for name, lines in (
        (accelerator, resolved(needed(), *constraints)),
        ("tools", resolved(list(TOOLS))),
    ):
        path = ROOT / "images" / f"requirements-{name}.txt"
        path.write_text("\n".join(["# Made by make hashes.", *lines, ""]))
        print(f"{path}: {len(lines)} packages")


if __name__ == "__main__":
    main(*sys.argv[1:])
