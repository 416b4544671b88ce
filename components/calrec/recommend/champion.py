"""The model in use, ranked for the same fresh users as the one that may take its place."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.artifacts import NOT_KNOWN, Manifest
from calrec.config import BatchConfig, GenerateConfig, RetrieveConfig
from calrec.config.checks import check
from calrec.config.overrides import from_dict, sections
from calrec.model.loading import load_users
from calrec.recommend import drift
from calrec.recommend.recommender import Filters, Recommender
from calrec.recommend.rows import History
from calrec.recommend.step import recommend_all
from calrec.report.progress import Progress
from calrec.retrieve.step import table
from calrec.storage.files import Remote
from calrec.system.printing import safe

_BATCH = 512


@dataclass(frozen=True)
class Champion:
    """A version's folder, opened."""

    model: Path
    index: Path
    generate: GenerateConfig
    retrieve: RetrieveConfig


def open_version(folder: Path) -> Champion:
    """The folder of a version of the registry, every file as it was written.

    Raises:
        FileNotFoundError, ValueError: it is not complete, a file was changed, or settings in it are not known to this
            version of calrec.
    """
    artifacts.read_verified(folder, "version")
    settings = sections(**json.loads((Path(folder) / "settings.json").read_text()))
    return Champion(Path(folder) / "model", Path(folder) / "index", settings["generate"], settings["retrieve"])


def recommend(
    folder: Path | None, histories: Path, out: Path, batch: BatchConfig, version: str = "", remote: Remote | None = None
) -> Manifest:
    """The champion's lists for every user of a log; see :func:`calrec.recommend.step.recommend_all`.

    Args:
        folder: the champion's, see :func:`opened`.
        histories: folder of the ingest step, or a file of histories.
        out: the folder to make.
        batch: how many items, and how many of the histories' items may be unknown.
        version: its name in the registry, for each row; empty: the content of its model.
        remote: a second place for finished parts; None: none.
    """
    assert folder is not None, "a batch begins with finding its champions"
    champion = open_version(folder)
    retrieve = replace(champion.retrieve, k=batch.k or champion.retrieve.k)
    return recommend_all(
        champion.model, champion.index, histories, out, champion.generate, retrieve, Filters(),
        max_unknown=batch.max_unknown, version=version, remote=remote,
    )  # fmt: skip


def rank(
    folder: Path | None, texts: Path, generations: Path, out: Path, retrieve: RetrieveConfig, champion: str = ""
) -> Manifest:
    """Lists of the champion as it is in use, with its own index, for the users that the challenger is judged by.

    An item that came after the champion's index was built cannot be in a list: that is what a new model is for.
    A champion that cannot be ranked is no reason to stop: there are no lists then, and a note says why. How far the
    data have moved from the champion's is told beside the lists, and also when there are none.

    Args:
        folder: the champion's, see :func:`opened`; None: there is no champion.
        texts: folder of the textify step, with the fresh histories.
        generations: of the challenger; names the users.
        out: the folder to make.
        retrieve: the challenger's; its k and exclude_seen hold for both.
        champion: its URI, which the manifest says; NOT_KNOWN: the registry did not say which it is.
    """
    of = artifacts.read_manifest(generations, "generations")
    domain, split = str(of.config["domain"]), str(of.config["generate"]["split"])
    with artifacts.writing(Path(out), "rankings", (folder, texts, generations)) as part:
        unknown = "which model is in use is not known, so nothing is compared with it"
        users, note = 0, unknown if champion == NOT_KNOWN else "there is no champion yet"
        with artifacts.table_writer(part, "rankings.parquet", "rankings") as writer:
            try:
                version = None if folder is None else open_version(folder)
                if version and _same(version, of, retrieve):
                    note = "the model is the champion"
                elif version:
                    for rows, count in _lists(version, texts, generations, domain, split, retrieve):
                        writer.write_table(rows)
                        users += count
                    note = f"ranked for {users:,} users"
            except (ValueError, FileNotFoundError) as error:
                check(users == 0, f"the champion's lists end after {users:,} users: {error}")
                note = f"the champion cannot be ranked, so nothing is compared with it: {error}"
        notes = (note, *_drifted(folder, texts, domain, split, part))
        print(f"champion {safe(domain)}: {safe('; '.join(notes))}", flush=True)
        inputs = {"generations": of.digest, "texts": artifacts.read_manifest(texts, "texts").digest}
        counts = {"users": users}
        return artifacts.finish(
            part,
            Manifest("rankings", {"domain": domain, "champion": champion}, counts=counts, notes=notes, inputs=inputs),
        )


def _drifted(folder: Path | None, texts: Path, domain: str, split: str, out: Path) -> tuple[str, ...]:
    """Write drift.FILE into `out`; gives a note when there is a champion and nothing can be told of its data."""
    if folder is None:
        return ()
    try:
        found = drift.drift(folder, texts, domain, split)
    except (ValueError, FileNotFoundError) as error:
        return (f"how far the data moved from the champion's is not known: {error}",)
    (out / drift.FILE).write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    return ()


def _same(champion: Champion, of_generations: Manifest, retrieve: RetrieveConfig) -> bool:
    """Whether it is the challenger itself, of an earlier run over the same data."""
    itself = artifacts.read_manifest(champion.model, "model").digest == of_generations.inputs["model"]
    generate = from_dict(GenerateConfig, of_generations.config["generate"])
    return itself and (champion.generate, champion.retrieve) == (generate, retrieve)


def _lists(
    champion: Champion, texts: Path, generations: Path, domain: str, split: str, retrieve: RetrieveConfig
) -> Iterator[tuple[pa.Table, int]]:
    """Rows of batches of users, and how many users these are."""
    items = artifacts.read_table(texts, "items.parquet", "texts")
    histories = _histories(texts, generations, domain, split, items["item_id"])
    stock = items.filter(pc.equal(items["domain"], domain))["item_id"].to_pylist()
    ranking = replace(champion.retrieve, k=retrieve.k, exclude_seen=retrieve.exclude_seen)
    recommender = Recommender(champion.model, champion.index, champion.generate, ranking, Filters(tuple(stock)))
    shared = len(set(recommender.catalogue.item_id) & set(stock))
    excluded = max(len(set(one.items)) for one in histories) if retrieve.exclude_seen else 0
    check(
        shared - excluded >= retrieve.k,
        f"its index shares {shared:,} items with the catalogue, too few for lists of {retrieve.k}",
    )
    progress = Progress(f"champion {domain}", len(histories))
    for start in range(0, len(histories), _BATCH):
        batch = histories[start : start + _BATCH]
        lists, _ = recommender(batch)
        rows = table([one.user_id for one in batch], lists, recommender.catalogue)
        yield rows.select(artifacts.RANKINGS.names), len(batch)
        progress.add(len(batch))
    progress.end()


def _histories(texts: Path, generations: Path, domain: str, split: str, item_id: pa.ChunkedArray) -> list[History]:
    """What the judged users bought before the held-out item."""
    judged = set(
        pq.read_table(generations / "generations.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    )
    users, ids = load_users(texts, [domain]), item_id.to_pylist()
    ends = users.test_at if split == "test" else users.valid_at
    return [
        History(user, tuple(ids[code] for code in items[:end]))
        for user, items, end in zip(users.user_id, users.items, ends.tolist(), strict=True)
        if user in judged
    ]
