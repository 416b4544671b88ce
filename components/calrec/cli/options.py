"""Options and settings that several verbs share: a named run, what is changed of it, its sources and targets."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from calrec.config import Config, Source
from calrec.config.overrides import merge, override
from calrec.config.runs import ABLATIONS, RUNS, apply_ablations, get_run


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Give a verb that works on a whole run the options that describe one."""
    parser.add_argument("--run", default="sample", choices=list(RUNS), help="named run to start from (default: sample)")
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME=URI",
        help="a category and its raw log (folder, gs://, s3://, sample:DEPARTMENT); the first replaces the run's",
    )  # fmt: skip
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="a category to fine-tune for; the first one replaces the run's targets",
    )
    add_changes(parser)


def configuration(options: argparse.Namespace) -> Config:
    """The named run with the command line's sources, targets and settings.

    Raises:
        ValueError: they do not fit together.
    """
    config = apply_ablations(get_run(options.run), options.ablation)
    sources = tuple(source(text) for text in options.source) or config.sources
    targets = tuple(options.target) or (config.targets if not options.source else tuple(s.domain for s in sources))
    return with_settings(replace(config, sources=sources, targets=targets), options).whole()


def source(text: str) -> Source:
    """A category and where its log lies, from NAME=URI."""
    name, equals, uri = text.partition("=")
    if not equals:
        raise ValueError(f"--source takes NAME=URI, got {text!r}; for example --source books=data/books")
    return Source(name.strip(), uri.strip())


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Options that change the settings of a named run."""
    parser.add_argument(
        "--ablation",
        action="append",
        default=[],
        choices=list(ABLATIONS),
        help="change the run by name, before --settings and --set",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help='JSON of settings over those of the run, {"SECTION": {"KEY": VALUE}}, as a pipeline\'s parameters',
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a setting, over --run and --settings, for example retrieve.k1=1.2",
    )


def with_settings(config: Config, options: argparse.Namespace) -> Config:
    """A configuration with the settings of the file and of the command line."""
    if options.settings:
        try:
            config = merge(config, json.loads(options.settings.read_text()))
        except ValueError as error:
            raise ValueError(f"{options.settings}: {error}") from None
    return override(config, options.set)
