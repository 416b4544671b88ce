"""`calrec STEP`: one step on this machine, from files to files; the same functions as in the pipeline."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from calrec.cli import commands
from calrec.config import Columns, Config, DataConfig
from calrec.config.overrides import merge, override
from calrec.config.runs import ABLATIONS, RUNS, ablated, named
from calrec.launch.exchange import INTERRUPTED
from calrec.system import machine
from calrec.system.printing import guarded, shown
from calrec.tracking.mlflow_client import clean

_LEARNER = "model before its refit, whose validation items retrieve.fusion_users learns from (default: the model)"

Command = Callable[[argparse.Namespace, Config], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; returns the exit code: 0 well, 1 the step failed, 2 the user's mistake, 75 run it again."""
    machine.prepare()
    with guarded():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.command(options, _config(options))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"calrec: error: {shown(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("calrec: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        # Of several processes the first says it, and none when calrec.launch.launch started them, and says it itself.
        if os.environ.get("RANK", "0") == "0" and options.command is not commands.work:
            print("calrec: interrupted after a checkpoint; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (FloatingPointError, OSError) as error:  # training, the disk, the network
        print(f"calrec: failed: {shown(str(error))}", file=sys.stderr)
        return 1
    except Exception as error:  # a fault of ours or of a server: its traceback is of use, and holds no secret
        clean(error)
        raise
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calrec",
        description="CALRec step by step: raw logs in, ranked items out. Each step reads folders that an earlier step "
        "wrote and makes the folder --out; an old one is replaced only when the step succeeds.",
        epilog="The whole pipeline at once: python -m pipelines run",
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")

    ingest = _step(steps, "ingest", commands.ingest, "raw log of one category → interactions, items, rejects")
    ingest.add_argument(
        "--source",
        required=True,
        metavar="URI",
        help="folders, files and globs, local, gs:// or https://, separated by commas; or sample:DEPARTMENT. In names, "
        "[,] [[] [*] [?] stand for these signs themselves; in https://, %%2C is a comma",
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

    textify = _step(steps, "textify", commands.textify, "ingested categories → item texts and split sequences")
    _input(textify, "data", "folders of ingest", nargs="+")

    model = _step(
        steps,
        "model",
        commands.model,
        "scratch, a name, a folder or a URI (--set model.name=…) → base model and token cache",
    )
    _input(model, "texts", "folder of textify")
    model.add_argument("--tokens-out", type=Path, required=True, metavar="DIR", help="the token cache to make")

    finetune = _step(steps, "finetune", commands.finetune, "model → model trained with the CALRec loss")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model to start from")):
        _input(finetune, name, f"{what}, or its gs:// URI", type=str)
    finetune.add_argument(
        "--stage", choices=("stage1", "stage2", "refit"), default="stage1", help="section of settings (default: stage1)"
    )
    finetune.add_argument("--target", metavar="NAME", help="train on this category alone")
    finetune.add_argument(
        "--checkpoints",
        default=os.environ.get("CALREC_CHECKPOINTS", ""),
        metavar="URI",
        help="mirror checkpoints to this folder, gs:// or mounted, and go on from there on any machine "
        "(default: $CALREC_CHECKPOINTS, else they lie beside --out alone)",
    )

    generate = _step(steps, "generate", commands.generate, "model and histories → sampled next-item texts")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model of finetune")):
        _input(generate, name, what)
    generate.add_argument("--target", required=True, metavar="NAME", help="the category")

    retrieve = _step(steps, "retrieve", commands.retrieve, "sampled texts → ranked real items")
    for name, what in (("texts", "folder of textify"), ("generations", "folder of generate")):
        _input(retrieve, name, what)
    for name, what in (("model", "model that generated"), ("tokens", "token cache")):
        _input(retrieve, name, f"{what}; for retrieve.dense and retrieve.rerank", required=False)
    _input(retrieve, "learner", _LEARNER, required=False)

    index = _step(steps, "index", commands.index, "texts and model → the catalogue that `recommend` looks up in")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model that recommends")):
        _input(index, name, what)
    _input(index, "learner", _LEARNER, required=False)
    index.add_argument("--target", required=True, metavar="NAME", help="the category")
    index.add_argument(
        "--items",
        type=Path,
        metavar="FILE",
        help="items beside those of the texts, or newer attributes of these: CSV, JSON lines or Parquet with item_id, "
        "title, category, brand, price; they can be recommended without any training",
    )

    recommend = _step(
        steps, "recommend", commands.recommend, "model, index and histories → ranked items with reasons", out=False
    )
    _input(
        recommend,
        "model",
        "model of finetune, or a registered one, models:/calrec-TARGET@champion",
        type=str,
        metavar="MODEL",
    )
    _input(recommend, "index", "folder of index; a registered model has its own", required=False)
    who = recommend.add_mutually_exclusive_group(required=True)
    who.add_argument("--history", metavar='"TITLE; TITLE"', help="titles or item ids of one user, oldest first")
    who.add_argument(
        "--histories",
        type=Path,
        metavar="FILE",
        help="many users: JSON lines or Parquet with user_id and items (or titles), CSV of user_id and item_id in "
        "order, or a folder of textify",
    )
    recommend.add_argument("--out", type=Path, metavar="DIR", help="folder for many users; the same call goes on there")
    recommend.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of the folder's parts")
    recommend.add_argument("-k", "--k", type=int, metavar="N", help="items for each user (default: retrieve.k)")
    recommend.add_argument("--in-stock", type=Path, metavar="FILE", help="recommend only these item ids, one per line")
    recommend.add_argument(
        "--category", action="append", default=[], metavar="NAME", help="recommend only items of this category"
    )
    recommend.add_argument(
        "--max-unknown",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="highest share of the histories' items that the index may not hold; they are left out and listed in "
        "rejects.parquet (default: 0.01)",
    )

    champion = _step(
        steps,
        "champion",
        commands.champion,
        "model in use → its lists for the users of a new one, and drift of the data",
    )
    _input(champion, "model", "the one in use, such as models:/calrec-TARGET@champion", type=str, metavar="MODEL")
    for name, what in (("texts", "folder of textify"), ("generations", "folder of generate, of the new model")):
        _input(champion, name, what)

    evaluate = _step(steps, "evaluate", commands.evaluate, "rankings → metrics against the baselines, report")
    for name, what in (
        ("texts", "folder of textify"),
        ("generations", "folder of generate"),
        ("recommendations", "folder of retrieve"),
    ):
        _input(evaluate, name, what)
    _input(evaluate, "champion", "folder of champion: the model in use as one more method, and drift", required=False)
    evaluate.add_argument(
        "--models",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="models of the stages in their order, the last one that generated; for learning curves, cost and settings "
        "in the report",
    )
    evaluate.add_argument(
        "--rankings",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="one more method from another recommender: CSV or Parquet of user_id, rank, item_id and perhaps score, "
        "for the same users; may be given again",
    )

    compare = _step(
        steps, "compare", commands.compare, "two evaluations → whether B is really better than A", out=False
    )
    for name, what in (("a", "folder of evaluate"), ("b", "another one, or the same for another method of it")):
        compare.add_argument(name, type=Path, metavar=name.upper(), help=what)
    for name in ("a", "b"):
        compare.add_argument(
            f"--method-{name}", default="calrec", metavar="NAME", help=f"method of {name.upper()} (default: calrec)"
        )
    compare.add_argument(
        "--despite",
        action="append",
        default=[],
        choices=("exclude_seen", "catalogue"),
        help="compare although this differs; may be given again",
    )
    compare.add_argument("--out", type=Path, metavar="FILE", help="write it as .md or .json too")

    promote = _step(
        steps,
        "promote",
        commands.promote,
        "metrics → the gate's decision; or a target's versions in the registry: which is in use, choose, roll back",
        out=False,
    )
    promote.epilog = (
        "Decide: calrec promote --evaluation DIR --out DIR. Look: calrec promote --target NAME. Roll back: calrec "
        "promote --target NAME --rollback --reason TEXT. The registry is that of MLFLOW_TRACKING_URI; after a local "
        "run sqlite:///…/build/mlflow.db."
    )
    either = promote.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="folder of evaluate: decide whether it passes the gate"
    )
    either.add_argument(
        "--target", metavar="NAME", help="category in the registry: list its versions, or change which is used"
    )
    promote.add_argument("--out", type=Path, metavar="DIR", help="with --evaluation: folder to make")
    promote.add_argument(
        "--champion",
        type=Path,
        metavar="DIR",
        help="with --evaluation: evaluation of the model in use over the same users (default: the champion that was "
        "ranked in the same evaluation, if any)",
    )
    move = promote.add_mutually_exclusive_group()
    move.add_argument(
        "--version", type=int, metavar="N", help="with --target: make it the champion, whatever the gate said"
    )
    move.add_argument(
        "--rollback",
        action="store_true",
        help="with --target: make the champion before the present one the champion again; the present one is not "
        "promoted again by a run that makes the same model",
    )
    promote.add_argument("--reason", metavar="TEXT", help="why, for the record; needed to change the champion")

    serve = steps.add_parser(
        "serve",
        help="answer requests over HTTP with a registered model",
        description="Answer requests over HTTP with a registered model: `mlflow models serve` in this environment, "
        "after a request that can be sent to it is printed.",
    )
    serve.add_argument("model", metavar="MODEL", help="models:/calrec-TARGET@champion, or models:/calrec-TARGET/3")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=5001, help="(default: 5001)")
    serve.set_defaults(command=commands.serve, run="sample", ablation=[], settings=None, set=[])

    inspect = steps.add_parser("inspect", help="say what a step's folder holds")
    inspect.add_argument("folder", type=Path)
    inspect.set_defaults(command=commands.inspect, run="sample", ablation=[], settings=None, set=[])

    work = steps.add_parser("work")  # no help: what calrec.launch.launch has torchrun start
    work.add_argument("uri")
    work.set_defaults(command=commands.work, run="sample", ablation=[], settings=None, set=[])
    return parser


def _step(steps: Any, name: str, command: Command, summary: str, out: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = steps.add_parser(name, help=summary, description=summary)
    if out:
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--run", default="sample", choices=list(RUNS), help="named run whose settings apply (default: sample)"
    )
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
    parser.set_defaults(command=command)
    return parser


def _input(parser: argparse.ArgumentParser, name: str, what: str, **options: Any) -> None:
    parser.add_argument(f"--{name}", help=what, **{"metavar": "DIR", "type": Path, "required": True, **options})


def _config(options: argparse.Namespace) -> Config:
    """The named run with the settings of the file and of the command line."""
    config = ablated(named(options.run), options.ablation)
    if options.settings:
        try:
            config = merge(config, json.loads(options.settings.read_text()))
        except ValueError as error:
            raise ValueError(f"{options.settings}: {error}") from None
    return override(config, options.set)


if __name__ == "__main__":
    sys.exit(main())
