"""How a local run ends early: Ctrl-C, SIGTERM, a closed terminal and the death of this process reach every step.

KFP's runners know none of it: at Ctrl-C they wait for the steps of their threads, and for all that follow them.
"""

import contextlib
import os
import select
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import psutil

GRACE_S = 50
"""From the request to end until a step is killed: torchrun takes up to 40 s, with a checkpoint before it."""
_LOOK_S = 0.5  # between two looks at whether a silent step has ended
_MARK = "CALREC_STEP_MARK"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A step's companion: it reads a line when the step has ended, and nothing when this process has died.
_COMPANION = f'read -r _ && exit; kill -TERM "-$0"; sleep {GRACE_S}; kill -KILL "-$0"'


class EndedError(KeyboardInterrupt):
    """A signal ended the run; `code` is the exit code that says which: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Step(Protocol):
    """A step that runs, in whatever way."""

    def follow(self) -> None:
        """Pass on what it prints until it has ended; a second call goes on."""
        ...

    def close(self) -> int:
        """Clear away what is left of it, once it has ended; gives the exit code."""
        ...

    def end(self) -> None:
        """Ask it to end: it may write a checkpoint and end its run."""
        ...

    def kill(self) -> None:
        """End all of it at once; may be called by any thread, and in the middle of the other functions."""
        ...


class Steps:
    """The steps that run; once a signal has come, they are asked to end, and no other one begins."""

    def __init__(self) -> None:
        self._running: list[Step] = []
        self._starting = False  # whether the main thread is between a step's start and its entry in the list
        self._signal = 0

    def run(self, start: Callable[[], Step]) -> int:
        """Run a step to its end; gives its exit code.

        Raises:
            EndedError: a signal came, in the main thread.
            RuntimeError: a signal came, in others.
        """
        self.check()
        self._starting = threading.current_thread() is threading.main_thread()
        try:
            step = start()
            self._running.append(step)
        finally:
            self._starting = False
        try:
            if self._signal:  # it came meanwhile
                step.end()
            try:
                step.follow()
            except EndedError:
                step.follow()
                raise
        finally:
            step.kill()
            self._running.remove(step)
            code = step.close()
        self.check()
        return code

    def check(self) -> None:
        """Raise what a signal raises, if one has come."""
        if self._signal and threading.current_thread() is threading.main_thread():
            raise EndedError(self._signal)
        if self._signal:
            raise RuntimeError("interrupted")

    def end(self, number: int, *_: Any) -> None:
        """What a signal does: the first one asks all steps to end and gives them GRACE_S, the second one kills them."""
        again, self._signal = bool(self._signal), number
        if again:
            self._kill()
        else:
            timer = threading.Timer(GRACE_S, self._kill)
            timer.daemon = True
            timer.start()
            for step in list(self._running):
                step.end()
        if not self._starting:
            raise EndedError(number)

    @contextlib.contextmanager
    def instead_of(self, handler: Any, name: str, run: Callable[..., int]) -> Iterator[None]:
        """Have a module of KFP start its steps by `run`; for good once a signal has come, since threads still wait."""
        old = getattr(handler, name)
        setattr(handler, name, run)
        try:
            yield
        finally:
            if not self._signal:
                setattr(handler, name, old)

    def _kill(self) -> None:
        for step in list(self._running):
            step.kill()


@contextlib.contextmanager
def in_charge() -> Iterator[Steps]:
    """Signals end these steps, and raise EndedError in this thread; one that was ignored from the start stays so."""
    steps = Steps()
    with contextlib.ExitStack() as stack:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, steps.end))
        try:
            yield steps
        finally:
            steps.check()  # in the place of the error that it made


# --- processes --------------------------------------------------------------------------------------------------


class Process:
    """A step in a process group of its own, so that the terminal's Ctrl-C reaches it once, through `end`.

    What it starts in other groups, as torchrun is, has its mark in the environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment, _MARK: self._mark}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._companion = subprocess.Popen(
            ["sh", "-c", _COMPANION, str(self._process.pid)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._line = b""

    def follow(self) -> None:
        """Until all of its group have ended, or the last one who prints closes its output."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while True:
            if select.select([output], [], [], _LOOK_S)[0]:
                read = os.read(output, 1 << 16)
                *lines, self._line = (self._line + read).split(b"\n")
                for line in lines:
                    print(line.decode(errors="replace"))
                if not read:
                    break
            elif self._has_ended():  # and a stray holds the output
                break
        if self._line:
            print(self._line.decode(errors="replace"))
        # It keeps its number until `close`, so that no other group can have it.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)

    def end(self) -> None:
        """SIGTERM to the group; torchrun has one of its own, and its step passes it on."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the group and to all that has the mark."""
        self._signal(signal.SIGKILL)
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.environ().get(_MARK) == self._mark:
                    one.kill()

    def close(self) -> int:
        """Take its exit code, and send its companion home."""
        code = self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._companion.communicate(b"\n")
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
                os.killpg(self._process.pid, number)

    def _has_ended(self) -> bool:
        if not os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return False
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(one.pid) == self._process.pid and one.status() != psutil.STATUS_ZOMBIE:
                    return False
        return True


@contextlib.contextmanager
def processes(steps: Steps) -> Iterator[Any]:
    """KFP's runner of processes, with these steps in charge of them."""
    from kfp import local
    from kfp.local import subprocess_task_handler as handler

    def run(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return steps.run(lambda: Process(full_command, env_vars or {}))

    with steps.instead_of(handler, "run_local_subprocess", run):
        yield local.SubprocessRunner(use_venv=False)
