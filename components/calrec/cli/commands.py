"""What `calrec STEP` does: a step's function on the command line's folders, inside a run of the tracking server."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import Config, checks
from calrec.config.checks import check
from calrec.launch import stage, steps
from calrec.report import manifests
from calrec.storage import uris
from calrec.system import machine
from calrec.system.printing import markdown, safe
from calrec.tracking import promotion, registry, runs

if TYPE_CHECKING:
    from calrec.recommend.champion import Champion


def run_all(options: argparse.Namespace, config: Config) -> None:
    """Every step on this machine, and what came out."""
    from calrec.api.run import run
    from calrec.api.summary import summary

    print(summary(run(config, options.root, options.fresh)))


def ingest(options: argparse.Namespace, config: Config) -> None:
    """Raw log → interactions, items, rejects."""
    name, source = parse_source(options.source)
    made = _run("ingest", options, config, {}, domain=options.domain or name, source=source, cache=options.cache)
    print(manifests.text(made, notes=False))


def parse_source(text: str) -> tuple[str, str]:
    """A category's name and its URI, from NAME=URI or from a URI alone, whose last part without endings is the name."""
    name, equals, uri = text.partition("=")
    if equals and not re.search(r"[/\\:*?#]", name):
        return name.strip(), uri.strip()
    last = re.split(r"[/:]", re.split(r"[#?]" if "://" in text else "#", text)[0].rstrip("/"))[-1]
    return last.split(".")[0].lower() or "log", text


def textify(options: argparse.Namespace, config: Config) -> None:
    """Categories → texts and sequences."""
    _run("textify", options, config, {"data": options.data})


def model(options: argparse.Namespace, config: Config) -> None:
    """Texts → base model and token cache."""
    _run("base_model", options, config, {"texts": options.texts}, out=(options.out, options.tokens_out))


def finetune(options: argparse.Namespace, config: Config) -> None:
    """Model → trained model, where the launch section says."""
    given = {name: Path(uris.local(getattr(options, name))) for name in ("texts", "tokens", "model")}
    _run(options.stage, options, config, given, domain=options.target or "", checkpoints=options.checkpoints)


def work(options: argparse.Namespace, config: Config) -> None:
    """What a process of torchrun does that calrec.launch.stage has started."""
    from calrec.finetune.step import finetune as train

    stage.work(options.uri, train)


def generate(options: argparse.Namespace, config: Config) -> None:
    """Model and histories → sampled texts."""
    _run("generate", options, config, _inputs(options, "texts", "tokens", "model"), domain=options.target)


def retrieve(options: argparse.Namespace, config: Config) -> None:
    """Sampled texts → ranked items."""
    given = _inputs(options, "texts", "generations", "model", "tokens", "learner")
    _run("retrieve", options, config, given, domain=_domain(options.generations))


def index(options: argparse.Namespace, config: Config) -> None:
    """Texts and a model → the catalogue that recommendations are looked up in."""
    from calrec.recommend.items import read_items

    new = read_items(options.items, config.data.category) if options.items else None
    given = _inputs(options, "texts", "tokens", "model", "learner")
    _run("index", options, config, given, domain=options.target, new_items=new)


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
    print(step.format_list(recommender, step.recommend_one(recommender, History("1", titles=titles))))


def _model(options: argparse.Namespace, config: Config) -> tuple["Champion", str]:
    """What recommends, and its name: folders with the command line's settings, or a registered model with its own."""
    from calrec.recommend.champion import Champion, open_version

    if not options.model.startswith("models:"):
        check(options.index is not None, "a model's folder needs --index DIR, the folder of calrec index")
        return Champion(Path(options.model), options.index, config.generate, config.retrieve), ""
    given = [name for name in ("index", "settings", "set", "ablation") if getattr(options, name)]
    check(
        not given,
        f"{options.model} recommends with its own index and settings; leave out "
        f"{', '.join(f'--{name}' for name in given)}",
    )
    version = registry.resolve_version(options.model)
    folder = registry.download_version(version.uri)
    assert folder is not None, "a version has a folder"
    return open_version(folder), version.uri


def champion(options: argparse.Namespace, config: Config) -> None:
    """The model in use → its lists for the users that a new one is judged by, and how far the data have moved."""
    uri, domain = registry.resolve_version(options.model).uri, _domain(options.generations)
    _run("champion", options, config, _inputs(options, "texts", "generations"), domain=domain, champion=uri)


def evaluate(options: argparse.Namespace, config: Config) -> None:
    """Rankings → metrics and report, which is printed."""
    pairs = [text.partition("=") for text in options.rankings]
    for name, equals, file in pairs:
        check(bool(name and equals and file), f"--rankings takes NAME=FILE, got {name + equals + file!r}")
        checks.name("--rankings", name)
    named = [name for name, _, _ in pairs]
    check(len(set(named)) == len(named), f"--rankings gives two files one name: {', '.join(named)}")
    given = _inputs(options, "texts", "generations", "recommendations", "models", "champion")
    given["rankings"] = {name: Path(file) for name, _, file in pairs}
    _run("evaluate", options, config, given, domain=_domain(options.generations))
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

    _check_given(options, "--evaluation", "version", "rollback", "reason")
    check(options.out is not None, "--evaluation needs --out DIR, the folder to make")
    given = _inputs(options, "evaluation", "champion")
    _run("promote", options, config, given, domain=_domain(options.evaluation))
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
            said = promotion.rollback(target, options.reason)
        else:
            said = promotion.set_champion(target, options.version, options.reason)
        run.note(f"**{markdown(target)}**, by hand: {markdown(said)}")
        run.text("decision.md", f"# Decision on {markdown(target)}, by hand\n\n{markdown(said)}\n")
    print(safe(said))


def serve(options: argparse.Namespace, config: Config) -> None:
    """Serve a registered model by HTTP, in the place of this process."""
    version = registry.resolve_version(options.model)
    address = f"http://{options.host}:{options.port}/invocations"
    print(f"{version.uri}, of {version.created:%Y-%m-%d}; once it says that it runs, ask it:\n")
    print(f"  curl {address} -H 'Content-Type: application/json' -d '{registry.request(version)}'\n", flush=True)
    # The logged model and not the name of the version, which could hold what has a meaning in an address.
    where = ["--host", options.host, "--port", str(options.port), "--env-manager", "local"]
    # MLflow starts a server by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", version.source, *where]
    os.execve(sys.executable, command, {**machine.LARGE_BLOCKS, **os.environ, "PATH": path})


def _run(
    name: str, options: argparse.Namespace, config: Config, inputs: Mapping[str, Any], out: Any = None, **values: Any
) -> Any:
    sections = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    return steps.run(name, out or options.out, inputs, sections, **values)


def _inputs(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


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
