"""`python -m pipelines`: from YAML to runs and schedules on Kubeflow, and the same pipeline on this machine."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calrec.config import IMAGE, Config, Source
from calrec.config.overrides import override
from calrec.config.runs import ABLATIONS, RUNS, ablated, named
from calrec.system.printing import guarded, shown
from pipelines import PIPELINES
from pipelines.kubeflow import commands as cluster
from pipelines.kubeflow import options as cluster_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 well, 1 a step or a check failed, 2 the user's mistake, 130 Ctrl-C, 143 SIGTERM.
    """
    with guarded():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (ValueError, FileNotFoundError) as error:
        print(f"pipelines: error: {shown(str(error))}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"pipelines: failed: {shown(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("pipelines: interrupted; finished steps are kept, run again to go on", file=sys.stderr)
        return int(getattr(stop, "code", 130))


def add(each: Any) -> None:
    """Give `calrec` the verbs of a cluster; see calrec.cli."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compile_ = commands.add_parser("compile", help="write the pipelines as YAML for Kubeflow")
    compile_.add_argument(
        "pipelines", nargs="*", default=list(PIPELINES), metavar="PIPELINE", help="training, batch (default: both)"
    )
    _configured(compile_)
    compile_.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the YAML")
    cluster_options.add_image(compile_)
    compile_.add_argument("--only-new", action="store_true", help="training ends early when there is nothing new")
    compile_.set_defaults(command=_compile)

    validate = commands.add_parser("validate", help="check compiled YAML beyond what the compiler checks")
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    validate.set_defaults(command=_validate)

    run = commands.add_parser("run", help="run the pipeline on this machine, with KFP's local runner and MLflow")
    _configured(run)
    run.add_argument(
        "--root",
        type=Path,
        default=Path("build"),
        metavar="DIR",
        help="artifacts, cache and MLflow store (default: build)",
    )
    run.add_argument("--fresh", action="store_true", help="run every step, also what has not changed")
    run.add_argument(
        "--runner", choices=("process", "docker"), default="process", help="where a step runs (default: process)"
    )
    run.add_argument("--image", default=IMAGE, help=f"image of the containers of --runner docker (default: {IMAGE})")
    run.set_defaults(command=_run)

    parameters = commands.add_parser("parameters", help="print the table of all parameters and settings: PARAMETERS.md")
    _configured(parameters)
    parameters.set_defaults(command=_parameters)

    study = commands.add_parser("study", help="the rows of RESULTS.md on public data; goes on where it was stopped")
    study.add_argument("--data", required=True, metavar="DIR", help="folder or URI with a folder for each set")
    study.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="a set, such as beauty2014 (default: all)"
    )
    study.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="NAME",
        help="paper, best or an ablation (default: paper and best)",
    )
    study.add_argument(
        "--root", type=Path, default=Path("build/study"), metavar="DIR", help="outputs of steps (default: build/study)"
    )
    study.add_argument(
        "--rankings", type=Path, metavar="DIR", help="other recommenders' rankings, named SET.METHOD.parquet"
    )
    study.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting of every row"
    )
    study.set_defaults(command=_study)

    cluster.add(commands, _configured, configuration)
    return parser


def _configured(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", default="sample", choices=list(RUNS), help="named run to start from (default: sample)")
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME=URI",
        help="a category and its raw log (folder, gs://, sample:DEPARTMENT); the first one replaces the run's sources",
    )  # fmt: skip
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="a category to fine-tune for; the first one replaces the run's targets",
    )
    parser.add_argument(
        "--ablation",
        action="append",
        default=[],
        choices=list(ABLATIONS),
        metavar="NAME",
        help=f"change the run by name, before --set; what comes before the change is taken from the cache: "
        f"{', '.join(ABLATIONS)}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a setting, for example stage2.steps=200",
    )


def configuration(options: argparse.Namespace) -> Config:
    """The named run with the command line's sources, targets and settings."""
    config = ablated(named(options.run), options.ablation)
    sources = tuple(_source(text) for text in options.source) or config.sources
    targets = tuple(options.target) or (config.targets if not options.source else tuple(s.domain for s in sources))
    return override(dataclasses.replace(config, sources=sources, targets=targets), options.set).whole()


def _source(text: str) -> Source:
    name, equals, uri = text.partition("=")
    if not equals:
        raise ValueError(f"--source takes NAME=URI, got {text!r}; for example --source books=data/books")
    return Source(name.strip(), uri.strip())


def _compile(options: argparse.Namespace) -> int:
    from pipelines.compiling import compile_pipeline

    config = configuration(options)
    for name in options.pipelines:
        print(compile_pipeline(name, config, options.out, options.image, options.cache_claim, options.only_new))
    return 0


def _parameters(options: argparse.Namespace) -> int:
    from pipelines.reference import document

    print(document(configuration(options)), end="")
    return 0


def _validate(options: argparse.Namespace) -> int:
    from pipelines.validation import validate

    faults = 0
    for path in options.files:
        found = validate(path)
        faults += len(found)
        print(f"{path}: {'sound' if not found else f'{len(found)} faults'}")
        for fault in found:
            print(f"  {fault}")
    return 1 if faults else 0


def _run(options: argparse.Namespace) -> int:
    from calrec.api.summary import summary
    from pipelines.local_run import run

    _refuse_cluster(options.set)
    image = options.image if options.runner == "docker" else ""
    print(summary(run(configuration(options), options.root, options.fresh, image)))
    return 0


def _refuse_cluster(settings: Sequence[str]) -> None:
    for setting in settings:
        if setting.strip().startswith("cluster."):
            raise ValueError(
                f"--set {setting} says what pods get; here are none, and a step has what this machine has: leave it "
                "out, or take compile, submit or schedule apply"
            )


def _study(options: argparse.Namespace) -> int:
    from pipelines.study import Study, table

    _refuse_cluster(options.set)
    study = Study(options.data, options.root, options.rankings, tuple(options.set))
    targets = options.target or list(named("study").targets)
    asked = [(row, target) for target in targets for row in options.row or ("paper", "best")]
    for row, target in asked:  # a wrong name is said before hours are spent
        study.configuration(row, target)
    text = table(study, {(row, target): study.run(row, target) for row, target in asked})
    (options.root / "study.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
