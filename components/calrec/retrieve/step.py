"""The retrieve step: generated texts in, ranked real items out."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig
from calrec.config.overrides import from_dict, to_dict
from calrec.generate.samples import Generation
from calrec.model.device import place_network, use_threads
from calrec.model.loading import Users, load_model, load_users
from calrec.report import manifests
from calrec.report.progress import Progress
from calrec.retrieve.bm25 import Index
from calrec.retrieve.candidates import FILL, Asked, Ranked
from calrec.retrieve.catalogue import Catalogue, load_catalogue
from calrec.retrieve.evidence import Evidence
from calrec.retrieve.following import countable
from calrec.retrieve.learning import learn_with_model, of_history
from calrec.retrieve.ranking import Ranker
from calrec.retrieve.reader import Reader
from calrec.retrieve.search import Search
from calrec.textify.tokens import TokenCache

_USERS = 1024  # ranked together


@artifacts.making("recommendations", "texts", "generations", "model", "tokens", "learner")
def retrieve(
    texts: Path,
    generations: Path,
    out: Path,
    config: RetrieveConfig,
    model: Path | None = None,
    tokens: Path | None = None,
    learner: Path | None = None,
) -> Manifest:
    """Rank the real items of the category by BM25 over every user's generated texts.

    Args:
        texts: folder of the textify step.
        generations: folder of the generate step; it says which category and which split.
        out: the folder to make; `config.k` rows per user, fewer only when the catalogue is smaller.
        config: BM25, fusion, and what is beyond the paper.
        model: the model that generated, for `config.dense` and `config.rerank`.
        tokens: its token cache.
        learner: the model before its refit, for `config.fusion_users`; None: `model`.

    Raises:
        ValueError: the generations were made from other texts, or by another model; the settings need the model.
    """
    of_generations = artifacts.read_manifest(generations, "generations")
    of_texts = artifacts.read_manifest(texts, "texts")
    if of_generations.inputs["texts"] != of_texts.digest:
        raise ValueError(f"{generations} was made from other texts than {texts}; run generate again")
    use_threads(config.threads)
    domain = str(of_generations.config["domain"])
    sampling = from_dict(GenerateConfig, of_generations.config["generate"])
    users, catalogue = load_users(texts, [domain]), load_catalogue(texts, domain)
    search = Search(Index.build(catalogue.group_texts, config.k1, config.b), config.threads)
    reader, cache, fusion, evidence = None, None, None, None
    if config.reads_model:
        if model is None or tokens is None:
            raise ValueError(
                f"retrieve.dense={config.dense} and retrieve.rerank={config.rerank} read the model; give --model and "
                "--tokens, or set both to 0"
            )
        network, _, cache, of_model = load_model(model, tokens, texts)
        if of_model.digest != of_generations.inputs["model"]:
            raise ValueError(f"the generations were made by another model than {model}; run generate again")
        reader = Reader(place_network(network), cache.targets(catalogue.first), config.memory_gb * 1e9)
        if config.fusion_users:
            judged = users_of(generations) if sampling.split == "valid" else ()
            fusion = learn_with_model(
                learner or model, tokens, texts, users, catalogue, search, config, sampling, judged
            )
    if config.rerank:
        evidence = Evidence.of(countable(users, sampling.split), catalogue, config.fusion_users > 0)
    ranker = Ranker(catalogue, search, config, reader, evidence, fusion)
    with artifacts.writing(Path(out)) as folder:
        progress = Progress(f"retrieve {domain}", of_generations.counts["users"])
        asked = _asked(generations, users, sampling.split, catalogue, cache, config.exclude_seen)
        counts = _write(folder, asked, ranker, progress)
        if fusion:
            fusion.save(folder)
            counts |= fusion.counts()
        print(f"retrieve {domain}: {', '.join(f'{name} {value:,}' for name, value in counts.items())}", flush=True)
        inputs = {"texts": of_texts.digest, "generations": of_generations.digest}
        made = Manifest(
            "recommendations", {**of_generations.config, "retrieve": to_dict(config)}, counts, inputs=inputs
        )
        for warning in manifests.warnings(made):
            print(f"retrieve {domain}: warning: {warning}", flush=True)
        return artifacts.finish(folder, made)


def _asked(
    generations: Path, users: Users, split: str, catalogue: Catalogue, cache: TokenCache | None, exclude_seen: bool
) -> Iterator[list[Asked]]:
    """Users that have generations, and what is known of each, some users at a time."""
    row_of = {user: row for row, user in enumerate(users.user_id)}
    generated = by_user(generations)
    while some := list(itertools.islice(generated, _USERS)):
        rows, its = [row_of[user] for user, _ in some], [texts for _, texts in some]
        yield list(of_history(users, rows, split, catalogue, cache, exclude_seen, its))


def _write(folder: Path, asked: Iterator[list[Asked]], ranker: Ranker, progress: Progress) -> dict[str, float]:
    """Every user's list into the folder, and what there is to count."""
    users = shown = filled = 0
    with artifacts.table_writer(folder, "recommendations.parquet", "recommendations") as writer:
        for part in asked:
            lists = list(ranker(part))
            users += len(part)
            shown += sum(map(len, lists))
            filled += sum(one.reason.source == FILL for ranked in lists for one in ranked)
            writer.write_table(table([one.user for one in part], lists, ranker.catalogue))
            progress.add(len(part))
    progress.end()
    return {
        "users": users,
        "items": len(ranker.catalogue.items),
        "text_groups": len(ranker.catalogue.members),
        **ranker.counts(),
        "filled_share": round(filled / max(1, shown), 4),
    }


def by_user(generations: Path) -> Iterator[tuple[str, list[Generation]]]:
    """(user_id, texts), one user after the other, bounded in memory."""
    columns = ["user_id", "text", "logprob", "count", "finished"]
    batches = pq.ParquetFile(Path(generations) / "generations.parquet").iter_batches(columns=columns)
    rows = (row for batch in batches for row in zip(*(batch[name].to_pylist() for name in columns), strict=True))
    for user, its in itertools.groupby(rows, key=lambda row: row[0]):
        yield user, [Generation(*row[1:]) for row in its]


def users_of(generations: Path) -> frozenset[str]:
    """Ids of the users whose texts these are."""
    column = pq.read_table(Path(generations) / "generations.parquet", columns=["user_id"])["user_id"]
    return frozenset(column.unique().to_pylist())


def table(users: list[str], lists: list[list[Ranked]], catalogue: Catalogue) -> pa.Table:
    """Rows of artifacts.RECOMMENDATIONS."""
    rows: list[dict[str, Any]] = []
    for user, ranked in zip(users, lists, strict=True):
        for place, one in enumerate(ranked, 1):
            at = catalogue.at(one.item)
            rows.append(
                {
                    "user_id": user,
                    "rank": place,
                    "item_id": catalogue.item_id[at],
                    "title": catalogue.title[at],
                    "score": one.score,
                    "source": one.reason.source,
                    "reason": one.reason.text,
                    "logprob": one.reason.logprob,
                    "match": one.reason.match,
                }
            )
    return pa.Table.from_pylist(rows, schema=artifacts.RECOMMENDATIONS)
