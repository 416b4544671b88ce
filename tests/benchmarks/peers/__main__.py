"""`python -m tests.benchmarks.peers --texts DIR --target NAME --model sasrec --out FILE`: train, choose, rank."""

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {
    # SASRec: the best of eight settings by validation NDCG@10 on scientific2018 (RESULTS.md, "The study").
    "sasrec": {"factors": 128, "heads": 2, "blocks": 2, "dropout": 0.5, "batch_size": 256, "lr": 1e-3,
               "loss": "sampled_softmax", "negatives": 1024, "layers": "sasrec", "max_len": 50},
    "bert4rec": {"factors": 128, "heads": 2, "blocks": 2, "dropout": 0.3, "batch_size": 128, "lr": 1e-3,
                 "loss": "softmax", "negatives": 256, "layers": "preln", "max_len": 50},
    "gru4rec": {"factors": 128, "dropout": 0.3, "batch_size": 256, "lr": 0.05, "n_sample": 2048,
                "sample_alpha": 0.5},
}  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of calrec textify: our split")
    parser.add_argument("--target", required=True, help="the category")
    parser.add_argument("--model", choices=sorted(DEFAULTS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="rankings to write, .parquet")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="whose lists")
    parser.add_argument("--users", type=Path, help="only these: lines of ids, or a Parquet file with user_id")
    parser.add_argument("--exclude-seen", action="store_true", help="leave out the history (retrieve.exclude_seen)")
    parser.add_argument("--epochs", type=int, default=200, help="at most so many")
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better validation NDCG@10; 0: none")
    parser.add_argument(
        "--train-on", choices=("train", "all"), default="train",
        help="train: what precedes the validation item, as calrec's model; all: then once more, for the chosen number "
        "of epochs, on all that precedes the test item, as the counting baselines",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def settings_of(model: str, changes: list[str]) -> dict[str, Any]:
    """The model's settings with NAME=VALUE put in.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    settings = dict(DEFAULTS[model])
    for change in changes:
        name, _, value = change.partition("=")
        if name not in settings:
            raise ValueError(f"unknown setting {name!r} of {model}; one of: {', '.join(settings)}")
        settings[name] = type(settings[name])(value)
    return settings


def named(path: Path | None) -> set[str] | None:
    """User ids of a file."""
    import pyarrow.parquet as pq

    if path is None:
        return None
    if path.suffix == ".parquet":
        return set(pq.read_table(path, columns=["user_id"])["user_id"].to_pylist())
    return set(path.read_text().splitlines())


def main() -> None:
    """Run."""
    given = arguments()
    if given.train_on == "all" and given.split == "valid":
        raise ValueError("--train-on all holds the validation items; for --split valid use --train-on train")
    settings = settings_of(given.model, given.set)
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    import torch
    from pytorch_lightning import seed_everything

    from tests.benchmarks.peers.split import Judge, Split

    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    seed_everything(given.seed)
    split = Split.read(given.texts, given.target)
    judge = Judge(split, given.exclude_seen)
    events = sum(map(len, split.training(every=False)))
    print(
        f"{given.model} on {given.target}: {len(split.user_id):,} users, {len(split.item_id):,} items, "
        f"{events:,} training events; {json.dumps({**settings, 'seed': given.seed, 'threads': given.threads})}",
        flush=True,
    )
    start = time.perf_counter()
    scorer, facts = run(given, settings, judge, given.epochs, given.patience, every=False)
    valid = judge.figures(scorer, "valid", split.judged("valid", named(given.users)))
    if given.train_on == "all":
        seed_everything(given.seed)
        scorer, again = run(given, settings, judge, int(facts.get("best_epoch", given.epochs)), 0, every=True)
        facts |= {f"{name}_on_all": value for name, value in again.items()}
    judge.write(scorer, given.split, split.judged(given.split, named(given.users)), given.out)
    facts |= {f"valid_{name}": round(value, 4) for name, value in valid.items()}
    print(json.dumps({**facts, "seconds_in_all": round(time.perf_counter() - start, 1)}), flush=True)


def run(
    given: argparse.Namespace, settings: dict[str, Any], judge: Any, epochs: int, patience: int, every: bool
) -> tuple[Any, dict[str, float]]:
    """One training."""
    histories = judge.split.training(every)
    if given.model == "gru4rec":
        from tests.benchmarks.peers import recurrent

        chosen = {**settings, "epochs": epochs, "seed": given.seed}
        return recurrent.train(chosen, histories, judge, choose=patience > 0)
    from tests.benchmarks.peers import transformers

    names = {"n_factors": "factors", "n_heads": "heads", "n_blocks": "blocks", "dropout_rate": "dropout",
             "batch_size": "batch_size", "lr": "lr", "loss": "loss", "n_negatives": "negatives", "layers": "layers",
             "session_max_len": "max_len"}  # fmt: skip
    options = {theirs: settings[ours] for theirs, ours in names.items()} | {"epochs": epochs}
    return transformers.train(given.model, options, histories, judge, patience)


if __name__ == "__main__":
    main()
