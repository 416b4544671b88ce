"""What `calrec STEP` does: a step's function on the command line's folders, inside a run of the tracking server."""

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import Config, checks
from calrec.config.checks import check
from calrec.launch import launch
from calrec.report import manifests
from calrec.storage import uris
from calrec.system import machine
from calrec.system.printing import markdown, safe
from calrec.tracking import promotion, registry, runs

if TYPE_CHECKING:
    from calrec.recommend.champion import Champion


def ingest(options: argparse.Namespace, config: Config) -> None:
    """Raw log → interactions, items, rejects."""
    from calrec.ingest import step

    domain = options.domain or name_of(options.source)
    with runs.step("ingest", domain) as run:
        made = step.ingest(
            domain,
            options.source,
            options.out,
            config.data,
            uris.files(options.source),
            options.cache or uris.cache(domain, options.source),
        )
        run.record(made, options.out)


def name_of(source: str) -> str:
    """A category's name from its source: the last part of the path without endings."""
    last = re.split(r"[/:]", re.split(r"[#?]" if "://" in source else "#", source)[0].rstrip("/"))[-1]
    return last.split(".")[0].lower() or "log"


def textify(options: argparse.Namespace, config: Config) -> None:
    """Categories → texts and sequences."""
    from calrec.textify import step

    with runs.step("textify") as run:
        run.record(step.textify(options.data, options.out, config.text, config.split), options.out)


def model(options: argparse.Namespace, config: Config) -> None:
    """Texts → base model and token cache."""
    from calrec.model.step import base_model

    with runs.step("base_model") as run:
        weights = uris.local(config.model.name)
        made, tokens = base_model(options.texts, options.out, options.tokens_out, config.model, weights)
        run.record(made, options.out)
        run.record(tokens, options.tokens_out)


def finetune(options: argparse.Namespace, config: Config) -> None:
    """Model → trained model, where the launch section says."""
    from calrec.finetune.step import finetune as train

    section = getattr(config, options.stage)
    target = options.target or ""
    texts, tokens, model = (Path(uris.local(uri)) for uri in (options.texts, options.tokens, options.model))
    with runs.step(options.stage, target) as run:
        made = launch.finetune(
            texts, tokens, model, options.out,
            stage=section, tuning=config.model, launch=config.launch, log=run.metrics, train=train, name=options.stage,
            domains=[target] if target else [], checkpoints=options.checkpoints,
        )  # fmt: skip
        run.record(made, options.out)


def work(options: argparse.Namespace, config: Config) -> None:
    """What a process of torchrun does that calrec.launch.launch has started."""
    from calrec.finetune.step import finetune as train

    launch.work(options.uri, train)


def generate(options: argparse.Namespace, config: Config) -> None:
    """Model and histories → sampled texts."""
    from calrec.generate import step

    with runs.step("generate", options.target) as run:
        made = step.generate(options.texts, options.tokens, options.model, options.out, options.target, config.generate)
        run.record(made, options.out)


def retrieve(options: argparse.Namespace, config: Config) -> None:
    """Sampled texts → ranked items."""
    from calrec.retrieve import step

    with runs.step("retrieve", _domain(options.generations)) as run:
        made = step.retrieve(
            options.texts, options.generations, options.out, config.retrieve, options.model, options.tokens,
            options.learner,
        )  # fmt: skip
        run.record(made, options.out)


def index(options: argparse.Namespace, config: Config) -> None:
    """Texts and a model → the catalogue that recommendations are looked up in."""
    from calrec.recommend.items import read_items
    from calrec.retrieve import stored

    new = read_items(options.items, config.data.category) if options.items else None
    with runs.step("index", options.target) as run:
        made = stored.build(
            options.texts, options.tokens, options.model, options.target, options.out, config.retrieve, new,
            config.generate, options.learner,
        )  # fmt: skip
        run.record(made, options.out)


def recommend(options: argparse.Namespace, config: Config) -> None:
    """Model, index and histories → ranked items."""
    from calrec.recommend import step
    from calrec.recommend.items import read_ids
    from calrec.recommend.recommender import Filters, Recommender
    from calrec.recommend.rows import History

    stock = read_ids(options.in_stock) if options.in_stock else None
    filters = Filters(stock, tuple(options.category))
    used, version = _model(options, config)
    retrieve = used.retrieve if options.k is None else dataclasses.replace(used.retrieve, k=options.k)
    if options.history is None:
        check(options.out is not None, "a file of histories needs --out DIR, the folder to write to")
        made = step.recommend_all(
            used.model, used.index, options.histories, options.out, used.generate, retrieve, filters,
            options.format, options.max_unknown, version,
        )  # fmt: skip
        print(f"{options.out}: {manifests.text(made)}")
        return
    recommender = Recommender(used.model, used.index, used.generate, retrieve, filters)
    if retrieve.k > len(recommender.catalogue.items):
        print(f"the catalogue has {len(recommender.catalogue.items):,} items, so fewer than k", file=sys.stderr)
    titles = tuple(part.strip() for part in options.history.split(";") if part.strip())
    for title in titles:
        if recommender.new_title(title):
            print(f"{title!r} is no item's title or id; it is read as text", file=sys.stderr)
    print(step.shown(recommender, step.recommend_one(recommender, History("1", titles=titles))))


def _model(options: argparse.Namespace, config: Config) -> tuple["Champion", str]:
    """What recommends, and its name: folders with the command line's settings, or a registered model with its own."""
    from calrec.recommend.champion import Champion, opened

    if not options.model.startswith("models:"):
        check(options.index is not None, "a model's folder needs --index DIR, the folder of calrec index")
        return Champion(Path(options.model), options.index, config.generate, config.retrieve), ""
    given = [name for name in ("index", "settings", "set", "ablation") if getattr(options, name)]
    check(
        not given,
        f"{options.model} recommends with its own index and settings; leave out "
        f"{', '.join(f'--{name}' for name in given)}",
    )
    version = registry.resolved(options.model)
    folder = registry.fetched(version.uri)
    assert folder is not None, "a version has a folder"
    return opened(folder), version.uri


def champion(options: argparse.Namespace, config: Config) -> None:
    """The model in use → its lists for the users that a new one is judged by, and how far the data have moved."""
    from calrec.recommend.champion import rank

    with runs.step("champion", _domain(options.generations)) as run:
        uri = registry.resolved(options.model).uri
        model = registry.fetched(uri)
        run.record(rank(model, options.texts, options.generations, options.out, config.retrieve, uri), options.out)


def evaluate(options: argparse.Namespace, config: Config) -> None:
    """Rankings → metrics and report, which is printed."""
    from calrec.evaluate import step

    pairs = [text.partition("=") for text in options.rankings]
    for name, equals, file in pairs:
        check(bool(name and equals and file), f"--rankings takes NAME=FILE, got {name + equals + file!r}")
        checks.name("--rankings", name)
    named = [name for name, _, _ in pairs]
    check(len(set(named)) == len(named), f"--rankings gives two files one name: {', '.join(named)}")
    with runs.step("evaluate", _domain(options.generations)) as run:
        made = step.evaluate(
            options.texts, options.generations, options.recommendations, options.out, config.evaluate,
            options.models, {name: Path(file) for name, _, file in pairs}, options.champion,
        )  # fmt: skip
        run.record(made, options.out)
    print((options.out / "report.md").read_text())


def compare(options: argparse.Namespace, config: Config) -> None:
    """Two evaluations → their differences over the same users."""
    from calrec.evaluate import compare

    if options.out:
        compare.check_out(options.out, options.a, options.b)
    made = compare.compare(options.a, options.b, config.evaluate, options.method_a, options.method_b, options.despite)
    if options.out:
        compare.write(made, options.out)
    print(compare.text(made))


def promote(options: argparse.Namespace, config: Config) -> None:
    """Metrics → the gate's decision; or the registry's versions of a target, and which of them is in use."""
    if options.target:
        _check_given(options, "--target", "out", "champion")
        _choose(options)
        return
    from calrec.promote import step

    _check_given(options, "--evaluation", "version", "rollback", "reason")
    check(options.out is not None, "--evaluation needs --out DIR, the folder to make")
    with runs.step("promote", _domain(options.evaluation)) as run:
        run.record(step.promote(options.evaluation, options.out, config.gate, options.champion), options.out)
    print((options.out / "decision.md").read_text())


def _check_given(options: argparse.Namespace, what: str, *others: str) -> None:
    given = [f"--{name}" for name in others if getattr(options, name)]
    check(not given, f"{', '.join(given)} has no meaning with {what}; see calrec promote --help")


def _choose(options: argparse.Namespace) -> None:
    check(
        registry.available(),
        "MLFLOW_TRACKING_URI is not set, so there is no registry; after a local run it is sqlite:///…/build/mlflow.db",
    )
    target, changes = options.target, options.rollback or options.version is not None
    if not changes:
        print(registry.table(target))
        return
    check(bool(options.reason), "changing the champion needs --reason TEXT, which stands in the registry from then on")
    with runs.step("promote", target) as run:
        if options.rollback:
            said = promotion.roll_back(target, options.reason)
        else:
            said = promotion.appoint(target, options.version, options.reason)
        run.note(f"**{markdown(target)}**, by hand: {markdown(said)}")
        run.text("decision.md", f"# Decision on {markdown(target)}, by hand\n\n{markdown(said)}\n")
    print(safe(said))


def serve(options: argparse.Namespace, config: Config) -> None:
    """Serve a registered model by HTTP, in the place of this process."""
    version = registry.resolved(options.model)
    address = f"http://{options.host}:{options.port}/invocations"
    print(f"{version.uri}, of {version.created:%Y-%m-%d}; once it says that it runs, ask it:\n")
    print(f"  curl {address} -H 'Content-Type: application/json' -d '{registry.request(version)}'\n", flush=True)
    # The logged model and not the name of the version, which could hold what has a meaning in an address.
    where = ["--host", options.host, "--port", str(options.port), "--env-manager", "local"]
    # MLflow starts a server by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", version.source, *where]
    os.execve(sys.executable, command, {**machine.LARGE_BLOCKS, **os.environ, "PATH": path})


def _domain(folder: Path) -> str:
    return str(artifacts.read_manifest(folder).config["domain"])


def inspect(options: argparse.Namespace, config: Config) -> None:
    """Print what a step's folder holds."""
    manifest = artifacts.read_manifest(options.folder)
    print(f"{options.folder}: {manifest.kind}, content {manifest.digest}")
    print(manifests.text(manifest))
    for line in (
        *manifests.rows("settings", list(runs.flat(manifest.config).items())),
        *manifests.rows("inputs", list(manifest.inputs.items())),
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
