"""`calrec VERB`: one step on this machine, the whole pipeline, and what a cluster is asked for."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence

from calrec.cli import arguments as verbs
from calrec.cli.options import configuration, with_settings
from calrec.config import Config
from calrec.config.runs import apply_ablations, get_run
from calrec.system import machine
from calrec.system.printing import guard_output, redact

INTERRUPTED = os.EX_TEMPFAIL
"""Exit code of a training that wrote a checkpoint and stopped: the same command goes on from there."""
_PLUGINS = "calrec.verbs"  # entry points of packages that add verbs, such as those for a cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 well, 1 it failed, 2 the user's mistake, 75 run it again.

    130 is Ctrl-C, 129 a closed terminal, 143 SIGTERM; verbs for a cluster have more, see their help.
    """
    machine.prepare()
    with guard_output():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    try:
        if callable(options.command):
            return _plugged(options)
        # Only what runs a verb loads the libraries that it takes.
        commands = importlib.import_module("calrec.cli.commands")
        getattr(commands, options.command)(options, _configuration(options))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"calrec: error: {redact(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("calrec: interrupted; finished steps are kept, run the same command again to go on", file=sys.stderr)
        return int(getattr(stop, "code", 130))
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        # Of several processes the first says it, and none when calrec.launch started them, and says it itself.
        if os.environ.get("RANK", "0") == "0" and options.command != "work":
            print("calrec: interrupted after a checkpoint; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (FloatingPointError, OSError) as error:  # training, the disk, the network
        print(f"calrec: failed: {redact(str(error))}", file=sys.stderr)
        return 1
    except Exception as error:  # a fault of ours or of a server: its traceback is of use, and holds no secret
        from calrec.tracking.mlflow_client import clean

        clean(error)
        raise
    return 0


def _plugged(options: argparse.Namespace) -> int:
    """A verb of a plug-in, which gives its own exit code; its RuntimeErrors are sentences for a person."""
    try:
        return int(options.command(options))
    except RuntimeError as error:
        print(f"calrec: failed: {redact(str(error))}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """All verbs: those of the steps, and those of installed plug-ins."""
    found = argparse.ArgumentParser(
        prog="calrec",
        description="CALRec: raw logs in, ranked items out. `run` does it all on this machine. Each step reads folders "
        "that an earlier step wrote and makes the folder --out; an old one is replaced only when the step succeeds.",
    )
    each = found.add_subparsers(required=True, metavar="VERB")
    for add in verbs.VERBS:
        add(each)
    for plugin in importlib.metadata.entry_points(group=_PLUGINS):
        # The image of the steps installs this package without the pipelines.
        if importlib.util.find_spec(plugin.module.partition(".")[0]) is not None:
            plugin.load()(each)
    return found


def _configuration(options: argparse.Namespace) -> Config:
    """What a verb for a whole run is asked for, or the settings for one step."""
    if getattr(options, "whole", False):
        return configuration(options)
    return with_settings(apply_ablations(get_run(options.run), options.ablation), options)


if __name__ == "__main__":
    sys.exit(main())
