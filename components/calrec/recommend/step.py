"""`calrec recommend`: one history for a person to look at, or any number of users into a folder that can be resumed."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from calrec import artifacts
from calrec.artifacts import Manifest, places
from calrec.config import GenerateConfig, RetrieveConfig
from calrec.config.overrides import to_dict
from calrec.recommend import histories
from calrec.recommend.parts import Parts
from calrec.recommend.recommender import Filters, Recommender
from calrec.recommend.rows import History, Reject
from calrec.report import tables
from calrec.report.progress import Progress
from calrec.retrieve.candidates import FILL, Ranked
from calrec.retrieve.step import table
from calrec.storage.files import Remote

_BATCH = 512
_PART = 2048  # users of a part: what a kill costs at most
_NO_MATCH = "most frequent: nothing known of this user matches an item"
_SPEED = ("threads", "memory_gb")  # settings that change no result


def recommend_all(
    model: Path,
    index: Path,
    source: Path,
    out: Path,
    generate: GenerateConfig,
    retrieve: RetrieveConfig,
    filters: Filters,
    format: str = "parquet",  # noqa: A002
    max_unknown: float = 0.01,
    version: str = "",
    remote: Remote | None = None,
) -> Manifest:
    """Recommend for every user of a file of histories, in bounded memory; goes on where an earlier call stopped.

    Args:
        model: folder of the finetune step.
        index: folder of `calrec index`.
        source: histories, see :func:`calrec.recommend.histories.read`.
        out: the folder to make or to finish.
        generate: how texts are sampled.
        retrieve: how items are ranked.
        filters: which items may be recommended.
        format: parquet or jsonl.
        max_unknown: highest share of the histories' items that the index may not hold.
        version: name of the model in each row; empty: the content of its folder.
        remote: a second place for finished parts, from which another machine goes on; see :mod:`.second_place`.

    Raises:
        ValueError: too many unknown items; `out` is of other settings; and what the recommender refuses.
    """
    places.check_place(out, (model, index, source))
    domain = str(artifacts.read_manifest(index, "index").config["domain"])
    total = histories.count(source, domain)
    recommender = Recommender(model, index, generate, retrieve, filters)
    settings = {"generate": to_dict(generate), "retrieve": to_dict(retrieve)}
    for section in settings.values():
        for name in _SPEED:
            section.pop(name, None)
    version = version or recommender.of_model.digest
    fingerprint = {
        "domain": domain,
        "version": version,
        **recommender.fingerprint(),
        "histories": histories.digest(source),
        **settings,
        "in_stock": None if filters.in_stock is None else artifacts.short_hash(list(filters.in_stock)),
        "categories": list(filters.categories),
    }
    with Parts(out, format, fingerprint, _PART, remote) as parts:
        if parts.manifest is not None:
            return parts.manifest
        progress = Progress(f"recommend {domain}", total, parts.done_users)
        rejects: list[Reject] = []
        events, bad = (parts.counts.get(name, 0) for name in ("events", "unknown_items"))  # of earlier calls
        for users in histories.read(source, domain, parts.done_users, _BATCH, rejects.append):
            lists, unknown = recommender(users)
            its_events = sum(len(one.items) + len(one.titles) for one in users)
            events, bad = events + its_events, bad + len(unknown)
            _refuse_unknown(events, bad, unknown, max_unknown)
            rows = table([one.user_id for one in users], lists, recommender.catalogue)
            rows = rows.append_column(artifacts.LISTS.field("model_version"), pa.repeat(version, len(rows)))
            counts = {"events": its_events, "unknown_items": len(unknown)}
            counts["users_with_fill_alone"] = sum(map(fill_alone, lists))
            parts.append(rows, len(users), [*rejects, *unknown], counts)
            rejects.clear()
            progress.add(len(users))
        progress.end()
        inputs = {"model": recommender.of_model.digest, "index": recommender.stored.manifest.digest}
        return parts.finish({}, rejects, inputs=inputs)


def _refuse_unknown(events: int, bad: int, unknown: Sequence[Reject], most: float) -> None:
    """Refuse histories of which too large a share is unknown so far."""
    if bad > most * events:
        first = ", ".join(repr(reject.raw) for reject in unknown[:3])
        raise ValueError(
            f"{bad:,} of {events:,} items of the histories are not in the index, such as {first}; build it with them "
            f"(calrec index --items FILE), or allow a higher share: --max-unknown {min(1.0, 2 * bad / events):.2g}"
        )


def recommend_one(recommender: Recommender, history: History) -> list[Ranked]:
    """The list of one user.

    Raises:
        ValueError: an item id that the index does not hold.
    """
    (ranked,), unknown = recommender([history])
    if unknown:
        raise ValueError(f"item {unknown[0].raw!r} is not in the index; give a title, or build the index with it")
    return ranked


def format_list(recommender: Recommender, ranked: Sequence[Ranked]) -> str:
    """A list as a table for a terminal: place, id, title, score, and why the item is there."""
    catalogue = recommender.catalogue
    rows = []
    for place, (one, reason) in enumerate(zip(ranked, reasons(ranked), strict=True), 1):
        at = catalogue.at(one.item)
        score = "" if one.score is None else f"{one.score:.4f}"
        rows.append((str(place), catalogue.item_id[at], catalogue.title[at][:48], score, reason))
    return tables.text([("", "item", "title", "score", "why"), *rows])


def fill_alone(ranked: Sequence[Ranked]) -> bool:
    """Whether nothing speaks for any item of a list."""
    return bool(ranked) and all(one.reason.source == FILL for one in ranked)


def reasons(ranked: Sequence[Ranked]) -> list[str]:
    """The reason of each place in words."""
    return [_NO_MATCH] * len(ranked) if fill_alone(ranked) else [why(one) for one in ranked]


def why(one: Ranked) -> str:
    """The reason of a place in words."""
    reason = one.reason
    p = "" if reason.logprob is None else f", log p {reason.logprob:.2f}"
    fits = "" if reason.match is None else f", fits by {reason.match:.2f}"
    said = {
        "generation": f'wrote "{reason.text}"{p}{fits}',
        "last_title": f'like the last item "{reason.text}"{p}{fits}',
        "dense": f"nearest to the history{p}",
        "cooccurrence": f"often bought next{p}",
    }
    return said.get(reason.source, "most frequent")
