"""The verbs of `calrec` for Kubeflow: from YAML to runs and schedules; and the study. Or: `python -m pipelines`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from calrec.cli.__main__ import main
from calrec.cli.options import add_run_options, configuration
from calrec.config.runs import get_run
from pipelines import PIPELINES
from pipelines.kubeflow import commands as cluster
from pipelines.kubeflow import options as cluster_options


def add(commands: Any) -> None:
    """Give `calrec` the verbs of the pipelines; see calrec.cli."""
    compile_ = commands.add_parser("compile", help="write the pipelines as YAML for Kubeflow")
    compile_.add_argument(
        "pipelines", nargs="*", default=list(PIPELINES), metavar="PIPELINE", help="training, batch (default: both)"
    )
    add_run_options(compile_)
    compile_.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the YAML")
    cluster_options.add_image(compile_)
    compile_.add_argument("--components", action="store_true", help="also each step's component, for other pipelines")
    compile_.add_argument("--only-new", action="store_true", help="training ends early when there is nothing new")
    compile_.set_defaults(command=_compile)

    validate = commands.add_parser("validate", help="check compiled YAML beyond what the compiler checks")
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    validate.set_defaults(command=_validate)

    parameters = commands.add_parser("parameters", help="print the table of all parameters and settings: PARAMETERS.md")
    add_run_options(parameters)
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

    cluster.add(commands)


def _compile(options: argparse.Namespace) -> int:
    from pipelines.compiling import compile_components, compile_pipeline

    if options.components:
        print(*compile_components(options.out / "components"), sep="\n")
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


def _study(options: argparse.Namespace) -> int:
    from pipelines.study import Study, table

    study = Study(options.data, options.root, options.rankings, tuple(options.set))
    targets = options.target or list(get_run("study").targets)
    asked = [(row, target) for target in targets for row in options.row or ("paper", "best")]
    for row, target in asked:  # a wrong name is said before hours are spent
        study.configuration(row, target)
    text = table(study, {(row, target): study.run(row, target) for row, target in asked})
    (options.root / "study.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
