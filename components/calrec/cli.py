"""`calrec STEP`: one step on this machine, from files to files; the same functions as in the pipeline."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from calrec import artifacts, describe, storage, tracking
from calrec.artifacts import Manifest
from calrec.config import Columns, Config, DataConfig
from calrec.runs import RUNS, named
from calrec.settings import override

Command = Callable[[argparse.Namespace, Config], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; returns the exit code: 0 well, 1 the step failed, 2 the user's mistake."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.command(options, override(named(options.run), options.set))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"calrec: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("calrec: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (FloatingPointError, OSError) as error:  # training, the disk, the network
        print(f"calrec: failed: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calrec",
        description="CALRec step by step: raw logs in, ranked items out. Each step reads folders that an earlier step "
        "wrote and makes the folder --out; an old one is replaced only when the step succeeds.",
        epilog="The whole pipeline at once: python -m pipelines run",
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")

    ingest = _step(steps, "ingest", _ingest, "raw log of one category → interactions, items, rejects")
    ingest.add_argument(
        "--source",
        required=True,
        metavar="URI",
        help="folders, files and globs, local, gs:// or https://, separated by commas; or sample:DEPARTMENT",
    )
    names = [f"data.columns.{f.name}" for f in fields(Columns)]
    names = [f"data.{f.name}" for f in fields(DataConfig) if f.name != "columns"] + names
    ingest.epilog = f"Settings for --set: {', '.join(names)}."
    ingest.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep what was read of each file here, so that only new and changed files are read again "
        "(default: $CALREC_CACHE, else nothing is kept)",
    )
    ingest.add_argument("--domain", metavar="NAME", help="name of the category (default: last part of the source)")

    textify = _step(steps, "textify", _textify, "ingested categories → item texts and split sequences")
    _input(textify, "data", "folders of ingest", nargs="+")

    model = _step(
        steps, "model", _model, "scratch, a name, a folder or a URI (--set model.name=…) → base model and token cache"
    )
    _input(model, "texts", "folder of textify")
    model.add_argument("--tokens-out", type=Path, required=True, metavar="DIR", help="the token cache to make")

    finetune = _step(steps, "finetune", _finetune, "model → model trained with the CALRec loss")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model to start from")):
        _input(finetune, name, what)
    finetune.add_argument(
        "--stage", choices=("stage1", "stage2"), default="stage1", help="section of settings (default: stage1)"
    )
    finetune.add_argument("--target", metavar="NAME", help="train on this category alone")

    generate = _step(steps, "generate", _generate, "model and histories → sampled next-item texts")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model of finetune")):
        _input(generate, name, what)
    generate.add_argument("--target", required=True, metavar="NAME", help="the category")

    retrieve = _step(steps, "retrieve", _retrieve, "sampled texts → ranked real items")
    for name, what in (("texts", "folder of textify"), ("generations", "folder of generate")):
        _input(retrieve, name, what)

    evaluate = _step(steps, "evaluate", _evaluate, "rankings → metrics against the floors, report")
    for name, what in (
        ("texts", "folder of textify"),
        ("generations", "folder of generate"),
        ("recommendations", "folder of retrieve"),
    ):
        _input(evaluate, name, what)

    promote = _step(steps, "promote", _promote, "metrics → the gate's decision")
    _input(promote, "evaluation", "folder of evaluate")

    inspect = steps.add_parser("inspect", help="say what a step's folder holds")
    inspect.add_argument("folder", type=Path)
    inspect.set_defaults(command=_inspect, run="sample", set=[])
    return parser


def _step(steps: Any, name: str, command: Command, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = steps.add_parser(name, help=summary, description=summary)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--run", default="sample", choices=list(RUNS), help="named run whose settings apply (default: sample)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a setting, for example retrieve.k1=1.2",
    )
    parser.set_defaults(command=command)
    return parser


def _input(parser: argparse.ArgumentParser, name: str, what: str, **options: Any) -> None:
    parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=what, **options)


# --- the steps --------------------------------------------------------------------------------------------------


def _ingest(options: argparse.Namespace, config: Config) -> None:
    from calrec.ingest.step import ingest

    domain = options.domain or _name(options.source)
    with tracking.step("ingest", domain) as run:
        made = ingest(
            domain,
            options.source,
            options.out,
            config.data,
            storage.files(options.source),
            options.cache or storage.cache(domain, options.source),
        )
        run.record(made, options.out)


def _name(source: str) -> str:
    """A category's name from its source: the last part of the path without endings."""
    last = re.split(r"[/:]", source.split("#")[0].rstrip("/"))[-1]
    return last.split(".")[0].lower() or "log"


def _textify(options: argparse.Namespace, config: Config) -> None:
    from calrec.textify.step import textify

    with tracking.step("textify") as run:
        run.record(textify(options.data, options.out, config.text, config.split), options.out)


def _model(options: argparse.Namespace, config: Config) -> None:
    from calrec.model.step import base_model

    with tracking.step("base_model") as run:
        weights = storage.local(config.model.name)
        made, tokens = base_model(options.texts, options.out, options.tokens_out, config.model, weights)
        run.record(made, options.out)
        run.record(tokens, options.tokens_out)


def _finetune(options: argparse.Namespace, config: Config) -> None:
    from calrec.finetune.step import finetune

    section = getattr(config, options.stage)
    target = options.target or ""
    with tracking.step(options.stage, target) as run:
        made = finetune(
            options.texts, options.tokens, options.model, options.out,
            stage=section, tuning=config.model, name=options.stage, domains=[target] if target else [], log=run.metrics,
        )  # fmt: skip
        run.record(made, options.out)


def _generate(options: argparse.Namespace, config: Config) -> None:
    from calrec.generate.step import generate

    with tracking.step("generate", options.target) as run:
        made = generate(options.texts, options.tokens, options.model, options.out, options.target, config.generate)
        run.record(made, options.out)


def _retrieve(options: argparse.Namespace, config: Config) -> None:
    from calrec.retrieve.step import retrieve

    with tracking.step("retrieve", _domain(options.generations)) as run:
        run.record(retrieve(options.texts, options.generations, options.out, config.retrieve), options.out)


def _evaluate(options: argparse.Namespace, config: Config) -> None:
    from calrec.evaluate.step import evaluate

    with tracking.step("evaluate", _domain(options.generations)) as run:
        made = evaluate(options.texts, options.generations, options.recommendations, options.out, config.evaluate)
        run.record(made, options.out)
    print((options.out / "report.md").read_text())


def _promote(options: argparse.Namespace, config: Config) -> None:
    from calrec.promote.step import promote

    with tracking.step("promote", _domain(options.evaluation)) as run:
        run.record(promote(options.evaluation, options.out, config.gate), options.out)


def _domain(folder: Path) -> str:
    return str(artifacts.read_manifest(folder).config["domain"])


def _inspect(options: argparse.Namespace, config: Config) -> None:
    manifest = artifacts.read_manifest(options.folder)
    print(f"{options.folder}: {manifest.kind}, content {manifest.digest}")
    print(describe.text(manifest))
    for line in (
        *describe.rows("settings", list(tracking.flat(manifest.config).items())),
        *describe.rows("inputs", list(manifest.inputs.items())),
    ):
        print(line)
    _print_first_rows(options.folder, manifest)


def _print_first_rows(folder: Path, manifest: Manifest, count: int = 10) -> None:
    import pyarrow.parquet as pq

    for name in manifest.files:
        if name.endswith(".parquet"):
            table = pq.ParquetFile(folder / name)
            print(f"{name}: {table.metadata.num_rows:,} rows")
            for row in next(table.iter_batches(batch_size=count), table.schema_arrow.empty_table()).to_pylist():
                print(f"  {str(row)[:200]}")


if __name__ == "__main__":
    sys.exit(main())
