"""What each verb of `calrec` takes: one function a verb, and nothing that is slow to load."""

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from calrec.cli.options import add_changes, add_run_options
from calrec.config import Columns, DataConfig
from calrec.config.runs import RUNS

_LEARNER = "model before its refit, whose validation items retrieve.fusion_users learns from (default: the model)"


def ingest(steps: Any) -> None:
    """A raw log → interactions, items, rejects."""
    parser = _step(steps, "ingest", "raw log of one category → interactions, items, rejects")
    parser.add_argument(
        "--source",
        required=True,
        metavar="NAME=URI",
        help="the category and its log; without NAME= it is called after the last part of the path. URI: folders, "
        "files and globs, local, gs://, s3:// or https://, separated by commas; or sample:DEPARTMENT. In names, "
        "[,] [[] [*] [?] stand for these signs themselves; in https://, %%2C is a comma",
    )
    names = [f"data.columns.{f.name}" for f in fields(Columns)]
    names = [f"data.{f.name}" for f in fields(DataConfig) if f.name != "columns"] + names
    parser.epilog = f"Settings for --set: {', '.join(names)}."
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep what was read of each file here, so that only new and changed files are read again "
        "(default: $CALREC_CACHE, else nothing is kept)",
    )
    parser.add_argument("--domain", metavar="NAME", help=argparse.SUPPRESS)  # of before NAME=URI


def textify(steps: Any) -> None:
    """Categories → texts and sequences."""
    parser = _step(steps, "textify", "ingested categories → item texts and split sequences")
    _input(parser, "data", "folders of ingest", nargs="+")


def base_model(steps: Any) -> None:
    """Texts → base model and token cache."""
    parser = _step(
        steps,
        "model",
        "scratch, a name, a folder or a URI (--set model.name=…) → base model and token cache",
    )
    _input(parser, "texts", "folder of textify")
    parser.add_argument("--tokens-out", type=Path, required=True, metavar="DIR", help="the token cache to make")


def finetune(steps: Any) -> None:
    """A model → the same trained."""
    parser = _step(steps, "finetune", "model → model trained with the CALRec loss")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model to start from")):
        _input(parser, name, f"{what}, or its gs:// or s3:// URI", type=str)
    parser.add_argument(
        "--stage", choices=("stage1", "stage2", "refit"), default="stage1", help="section of settings (default: stage1)"
    )
    parser.add_argument("--target", metavar="NAME", help="train on this category alone")
    parser.add_argument(
        "--checkpoints",
        default=os.environ.get("CALREC_CHECKPOINTS", ""),
        metavar="URI",
        help="mirror checkpoints to this folder, gs://, s3:// or mounted, and go on from there on any machine "
        "(default: $CALREC_CHECKPOINTS, else they lie beside --out alone)",
    )


def generate(steps: Any) -> None:
    """A model and histories → sampled texts."""
    parser = _step(steps, "generate", "model and histories → sampled next-item texts")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model of finetune")):
        _input(parser, name, what)
    parser.add_argument("--target", required=True, metavar="NAME", help="the category")


def retrieve(steps: Any) -> None:
    """Sampled texts → ranked items."""
    parser = _step(steps, "retrieve", "sampled texts → ranked real items")
    for name, what in (("texts", "folder of textify"), ("generations", "folder of generate")):
        _input(parser, name, what)
    for name, what in (("model", "model that generated"), ("tokens", "token cache")):
        _input(parser, name, f"{what}; for retrieve.dense and retrieve.rerank", required=False)
    _input(parser, "learner", _LEARNER, required=False)


def index(steps: Any) -> None:
    """Texts and a model → the catalogue that is looked up in."""
    parser = _step(steps, "index", "texts and model → the catalogue that `recommend` looks up in")
    for name, what in (("texts", "folder of textify"), ("tokens", "token cache"), ("model", "model that recommends")):
        _input(parser, name, what)
    _input(parser, "learner", _LEARNER, required=False)
    parser.add_argument("--target", required=True, metavar="NAME", help="the category")
    parser.add_argument(
        "--items",
        type=Path,
        metavar="FILE",
        help="items beside those of the texts, or newer attributes of these: CSV, JSON lines or Parquet with item_id, "
        "title, category, brand, price; they can be recommended without any training",
    )


def recommend(steps: Any) -> None:
    """A model, an index and histories → ranked items."""
    parser = _step(steps, "recommend", "model, index and histories → ranked items with reasons", out=False)
    _input(
        parser,
        "model",
        "model of finetune, or a registered one, models:/calrec-TARGET@champion",
        type=str,
        metavar="MODEL",
    )
    _input(parser, "index", "folder of index; a registered model has its own", required=False)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--history", metavar='"TITLE; TITLE"', help="titles or item ids of one user, oldest first")
    who.add_argument(
        "--histories",
        type=Path,
        metavar="FILE",
        help="many users: JSON lines or Parquet with user_id and items (or titles), CSV of user_id and item_id in "
        "order, or a folder of textify",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for many users; the same call goes on there")
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of the folder's parts")
    parser.add_argument("-k", "--k", type=int, metavar="N", help="items for each user (default: retrieve.k)")
    parser.add_argument("--in-stock", type=Path, metavar="FILE", help="recommend only these item ids, one per line")
    parser.add_argument(
        "--category", action="append", default=[], metavar="NAME", help="recommend only items of this category"
    )
    parser.add_argument(
        "--max-unknown",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="highest share of the histories' items that the index may not hold; they are left out and listed in "
        "rejects.parquet (default: 0.01)",
    )


def champion(steps: Any) -> None:
    """The model in use → its lists for the users that a new one is judged by."""
    parser = _step(
        steps,
        "champion",
        "model in use → its lists for the users of a new one, and drift of the data",
    )
    _input(parser, "model", "the one in use, such as models:/calrec-TARGET@champion", type=str, metavar="MODEL")
    for name, what in (("texts", "folder of textify"), ("generations", "folder of generate, of the new model")):
        _input(parser, name, what)


def evaluate(steps: Any) -> None:
    """Rankings → metrics and report."""
    parser = _step(steps, "evaluate", "rankings → metrics against the baselines, report")
    for name, what in (
        ("texts", "folder of textify"),
        ("generations", "folder of generate"),
        ("recommendations", "folder of retrieve"),
    ):
        _input(parser, name, what)
    _input(parser, "champion", "folder of champion: the model in use as one more method, and drift", required=False)
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="models of the stages in their order, the last one that generated; for learning curves, cost and settings "
        "in the report",
    )
    parser.add_argument(
        "--rankings",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="one more method from another recommender: CSV or Parquet of user_id, rank, item_id and perhaps score, "
        "for the same users; may be given again",
    )


def compare(steps: Any) -> None:
    """Two evaluations → their differences."""
    parser = _step(steps, "compare", "two evaluations → whether B is really better than A", out=False)
    for name, what in (("a", "folder of evaluate"), ("b", "another one, or the same for another method of it")):
        parser.add_argument(name, type=Path, metavar=name.upper(), help=what)
    for name in ("a", "b"):
        parser.add_argument(
            f"--method-{name}", default="calrec", metavar="NAME", help=f"method of {name.upper()} (default: calrec)"
        )
    parser.add_argument(
        "--despite",
        action="append",
        default=[],
        choices=("exclude_seen", "catalogue"),
        help="compare although this differs; may be given again",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it as .md or .json too")


def promote(steps: Any) -> None:
    """Metrics → the gate's decision; or the registry's versions."""
    parser = _step(
        steps,
        "promote",
        "metrics → the gate's decision; or a target's versions in the registry: which is in use, choose, roll back",
        out=False,
    )
    parser.epilog = (
        "Decide: calrec promote --evaluation DIR --out DIR. Look: calrec promote --target NAME. Roll back: calrec "
        "promote --target NAME --rollback --reason TEXT. The registry is that of MLFLOW_TRACKING_URI; after a local "
        "run sqlite:///…/build/mlflow.db."
    )
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="folder of evaluate: decide whether it passes the gate"
    )
    either.add_argument(
        "--target", metavar="NAME", help="category in the registry: list its versions, or change which is used"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="with --evaluation: folder to make")
    parser.add_argument(
        "--champion",
        type=Path,
        metavar="DIR",
        help="with --evaluation: evaluation of the model in use over the same users (default: the champion that was "
        "ranked in the same evaluation, if any)",
    )
    move = parser.add_mutually_exclusive_group()
    move.add_argument(
        "--version", type=int, metavar="N", help="with --target: make it the champion, whatever the gate said"
    )
    move.add_argument(
        "--rollback",
        action="store_true",
        help="with --target: make the champion before the present one the champion again; the present one is not "
        "promoted again by a run that makes the same model",
    )
    parser.add_argument("--reason", metavar="TEXT", help="why, for the record; needed to change the champion")


def serve(steps: Any) -> None:
    """A registered model, by HTTP."""
    parser = steps.add_parser(
        "serve",
        help="answer requests over HTTP with a registered model",
        description="Answer requests over HTTP with a registered model: `mlflow models serve` in this environment, "
        "after a request that can be sent to it is printed.",
    )
    parser.add_argument("model", metavar="MODEL", help="models:/calrec-TARGET@champion, or models:/calrec-TARGET/3")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=5001, help="(default: 5001)")
    parser.set_defaults(command="serve", run="sample", ablation=[], settings=None, set=[])


def inspect(steps: Any) -> None:
    """What a step's folder holds."""
    parser = steps.add_parser("inspect", help="say what a step's folder holds")
    parser.add_argument("folder", type=Path)
    parser.set_defaults(command="inspect", run="sample", ablation=[], settings=None, set=[])


def work(steps: Any) -> None:
    """A process of torchrun; no help, since calrec.launch starts it."""
    parser = steps.add_parser("work")  # no help: what calrec.launch.stage has torchrun start
    parser.add_argument("uri")
    parser.set_defaults(command="work", run="sample", ablation=[], settings=None, set=[])


def run(steps: Any) -> None:
    """A whole training on this machine."""
    parser = steps.add_parser(
        "run",
        help="train, judge and register a model per target on this machine, with MLflow; goes on where it was stopped",
        description="Train, judge and register a model for every target on this machine, with MLflow. What has not "
        "changed since an earlier run is not made again; a run that was stopped goes on with the same command.",
    )
    add_run_options(parser)
    parser.add_argument(
        "--root", type=Path, default=Path("build"), metavar="DIR", help="outputs and MLflow store (default: build)"
    )
    parser.add_argument("--fresh", action="store_true", help="run every step, also what has not changed")
    parser.set_defaults(command="run_all", whole=True)


VERBS = (
    run, ingest, textify, base_model, finetune, generate, retrieve, index, recommend, champion, evaluate, compare,
    promote, serve, inspect, work,
)  # fmt: skip


def _step(steps: Any, name: str, summary: str, out: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = steps.add_parser(name, help=summary, description=summary)
    if out:
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--run", default="sample", choices=list(RUNS), help="named run whose settings apply (default: sample)"
    )
    add_changes(parser)
    parser.set_defaults(command=name)
    return parser


def _input(parser: argparse.ArgumentParser, name: str, what: str, **options: Any) -> None:
    parser.add_argument(f"--{name}", help=what, **{"metavar": "DIR", "type": Path, "required": True, **options})
