"""`run --runner docker`: every step in a container of the image, held as a pod is: read-only root, no capabilities."""

import contextlib
import ipaddress
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calrec.storage.files import split_glob
from pipelines.ending import Steps

_SETTINGS = ("CALREC_", "MLFLOW_", "OMP_", "GOMP_", "STORAGE_EMULATOR_HOST")


def identity(image: str) -> str:
    """16 digits of the image's id: the same tag on another build is other code.

    Raises:
        RuntimeError: no container engine answers.
        ValueError: the engine does not have the image.
    """
    with _engine() as engine:
        return str(_image(engine, image).id).removeprefix("sha256:")[:16]


@contextlib.contextmanager
def containers(image: str, root: Path, given: Mapping[str, Any], steps: Steps) -> Iterator[Any]:
    """KFP's runner of containers; none of them is left when the context ends.

    A container sees `root`, and for reading the files and folders that the parameters name, each under its own path.
    It has the user of this process, whose files the outputs are to be.

    Args:
        image: image of every step.
        root: absolute folder of artifacts, cache and MLflow store.
        given: the pipeline's parameters.
        steps: what ends them when a signal comes.

    Raises:
        RuntimeError: no container engine answers.
        ValueError: the engine does not have the image, or the tracking store is a file that containers cannot see.
    """
    from kfp import local

    # A killed process cannot end its containers: docker ps --filter label=calrec.run
    label = f"calrec.run={uuid.uuid4().hex}"
    environment = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    with _engine() as engine, _in_charge(steps):
        _image(engine, image)
        yield local.DockerRunner(
            environment=environment,
            mounts=_mounts(root, given, environment),
            working_dir=str(Path.cwd()),  # paths may be relative
            user=f"{os.getuid()}:{os.getgid()}",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            labels=[label],
            network_mode="host" if _is_here(environment.get("MLFLOW_TRACKING_URI", "")) else "bridge",
        )


def _in_charge(steps: Steps) -> AbstractContextManager[None]:
    """Start and end KFP's containers in its place.

    kfp 2.17 lets the engine remove a container, then asks for its exit code, and takes "no such container" for success:
    of 30 failing containers two passed.
    """
    from kfp.local import docker_task_handler as handler

    def run(client: Any, image: str, command: Sequence[str], volumes: Mapping[str, Any], **arguments: Any) -> int:
        return steps.run(lambda: _Container(client, image, list(command), dict(volumes), arguments))

    return steps.instead_of(handler, "run_docker_container", run)


class _Container:
    """A step in a container."""

    def __init__(
        self, client: Any, image: str, command: list[str], volumes: dict[str, Any], arguments: Mapping[str, Any]
    ) -> None:
        self._container = client.containers.run(image, command, volumes=volumes, detach=True, **arguments)
        self._said = self._container.logs(stream=True)
        self._code = -1

    def follow(self) -> None:
        for text in self._said:
            print(text.decode(errors="replace"), end="")
        self._code = int(self._container.wait()["StatusCode"])

    def end(self) -> None:
        """SIGTERM to all but the container's first process, a shell that would not pass it on."""
        import docker

        with contextlib.suppress(docker.errors.APIError):  # it is gone, or going
            self._container.exec_run(["sh", "-c", "kill -TERM -1"], detach=True)

    def kill(self) -> None:
        import docker

        with contextlib.suppress(docker.errors.APIError):
            self._container.remove(force=True)

    def close(self) -> int:
        return self._code


@contextlib.contextmanager
def _engine() -> Iterator[Any]:
    import docker

    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException as error:
        where = os.environ.get("DOCKER_HOST", "the default socket")
        raise RuntimeError(
            f"no container engine answers at {where} ({error}); start one (systemctl start docker, or as root: "
            "dockerd &), set DOCKER_HOST, or leave out --runner docker"
        ) from None
    with contextlib.closing(engine):
        yield engine


def _image(engine: Any, image: str) -> Any:
    import docker

    try:
        return engine.images.get(image)
    except docker.errors.ImageNotFound:
        raise ValueError(f"the engine has no image {image}; build it with make image, or pull it") from None


def _is_here(uri: str) -> bool:
    """Whether a server listens on this machine's own address, which only the host's network reaches."""
    host = urlsplit(uri).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _mounts(root: Path, given: Mapping[str, Any], environment: Mapping[str, str]) -> list[Any]:
    """The root and the folders of the environment for writing, what the parameters name for reading."""
    from docker.types import Mount

    store = environment.get("MLFLOW_TRACKING_URI", "")
    if store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).is_relative_to(root):
        raise ValueError(
            f"MLFLOW_TRACKING_URI={store} is a file outside of {root}, which containers do not see; unset it, or name "
            "a server"
        )
    folders = [Path(environment[name]) for name in ("CALREC_CACHE", "CALREC_CHECKPOINTS") if environment.get(name)]
    writable = {root, *(folder.absolute() for folder in folders if "://" not in str(folder))}
    for folder in (*writable, root / "artifacts"):  # kfp mounts this one; the engine would make it root's
        folder.mkdir(parents=True, exist_ok=True)
    readable = {path for path in _paths(given) if not path.is_relative_to(root)} - writable
    return [
        *(Mount(str(path), str(path), type="bind") for path in sorted(writable)),
        *(Mount(str(path), str(path), type="bind", read_only=True) for path in sorted(readable)),
    ]


def _paths(value: Any) -> Iterator[Path]:
    """Files and folders of this machine among the texts of the parameters; of a pattern the folder that it is in."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str):
        for part in (value, *value.split(",")):
            path = Path(*split_glob(Path(part.strip()).parts)[0])
            if path.parts and path.exists():
                yield path.absolute()
