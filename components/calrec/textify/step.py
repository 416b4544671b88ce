"""The textify step: interactions and items of all categories in, texts and split sequences out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import SplitConfig, TextConfig
from calrec.config.checks import iso
from calrec.config.overrides import to_dict
from calrec.report import document
from calrec.system.printing import safe
from calrec.textify import report
from calrec.textify.leakage import refuse_leaks
from calrec.textify.sequences import Histories, Ints, read_histories, text_groups, train_counts
from calrec.textify.splits import Split, split
from calrec.textify.texts import item_texts


@artifacts.making("texts", "data")
def textify(data: Sequence[Path], out: Path, text: TextConfig, parts: SplitConfig | None = None) -> Manifest:
    """Write item texts (one row per item, the row number is the item's code) and sequences with their split.

    Args:
        data: folders that the ingest step wrote, one per category.
        out: the folder to make: items, sequences, report.md, report.html.
        text: the template.
        parts: which events are training, validation and test; leave-last-out when not given.

    Raises:
        ValueError: a category comes twice or has no text; a time split that the data do not allow, see
            :func:`calrec.textify.splits.split`; a held-out event that is training in another category.
    """
    parts = parts or SplitConfig()
    folders, manifests = _by_domain(data)
    items = pa.concat_tables(_items(domain, folder, text) for domain, folder in folders.items())
    ids = {domain: items.filter(pc.equal(items["domain"], domain))["item_id"].combine_chunks() for domain in folders}
    ordered = [domain for domain, manifest in manifests.items() if manifest.config["time"] == "order"]
    histories, its_split = split(read_histories(folders, ids), parts, items["item_id"], ordered)
    refuse_leaks(histories, its_split, items["item_id"], ordered)

    counts = train_counts(histories, its_split.train_end, len(items))
    texts = item_texts(items, text.attributes)
    groups = text_groups(texts, items["domain"], counts)
    columns = [items[name] for name in ("item_id", "domain", "title", "category", "brand", "price")]
    numbers = [pa.array(column, pa.int32()) for column in (groups, counts)]
    item_table = pa.table([*columns, texts, *numbers], schema=artifacts.ITEM_TEXTS)
    sizes = report.by_category(histories, its_split, items, groups)
    totals = _totals(sizes, texts)
    told = report.Report(
        sizes=sizes,
        totals=totals,
        split=its_split,
        previews=report.previews(histories, its_split, texts, text.phrases),
        histograms=report.histograms(histories, texts, counts),
    )
    _print(told)
    if its_split.cuts:
        parts = replace(parts, valid_from=iso(its_split.cuts[0]), test_from=iso(its_split.cuts[1]))
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(folder, "items.parquet", item_table)
        artifacts.write_table(folder, "sequences.parquet", _sequences(histories, its_split))
        document.write(folder, "Texts", report.sections(told))
        return artifacts.finish(
            folder,
            Manifest(
                "texts",
                config={"domains": list(folders), "text": to_dict(text), "split": to_dict(parts)},
                counts={**totals, "by_category": sizes},
                warnings=told.warnings,
                inputs={f"data.{domain}": manifest.digest for domain, manifest in manifests.items()},
            ),
        )


def _by_domain(data: Sequence[Path]) -> tuple[dict[str, Path], dict[str, Manifest]]:
    """Folders and manifests by category, in alphabetical order."""
    read = [(artifacts.read_manifest(Path(folder), "interactions"), Path(folder)) for folder in data]
    pairs = sorted(((str(manifest.config["domain"]), manifest, folder) for manifest, folder in read), key=_domain)
    domains = [domain for domain, _, _ in pairs]
    if len(set(domains)) < len(domains):
        raise ValueError(f"a category comes twice: {', '.join(domains)}")
    return {domain: folder for domain, _, folder in pairs}, {domain: manifest for domain, manifest, _ in pairs}


def _domain(entry: tuple[str, Manifest, Path]) -> str:
    return entry[0]


def _items(domain: str, folder: Path, text: TextConfig) -> pa.Table:
    """The items of a category; one without any title has nothing to say."""
    items = artifacts.read_table(folder, "items.parquet", "interactions")
    needed = ["title"] if "title" in text.attributes else list(text.attributes)
    if not any(pc.any(pc.not_equal(items[name], "")).as_py() for name in needed):
        raise ValueError(
            f"{domain}: none of its {len(items):,} items has a {' or '.join(needed)}, so there is no text to train on; "
            f"give the metadata of its items (data.items, data.columns), or leave {domain} out"
        )
    return items


def _sequences(histories: Histories, its_split: Split) -> pa.Table:
    ends: list[Ints] = [its_split.train_end, its_split.valid_at, its_split.test_at]
    columns = [histories.user_id, histories.domain, histories.items, *(pa.array(end, pa.int32()) for end in ends)]
    return pa.table(columns, schema=artifacts.SEQUENCES)


def _totals(sizes: Mapping[str, Mapping[str, int]], texts: pa.ChunkedArray) -> dict[str, Any]:
    """Sums over the categories, and characters of an item text."""
    chars = pc.utf8_length(texts)
    return {
        "domains": len(sizes),
        **{what: sum(of[what] for of in sizes.values()) for what in next(iter(sizes.values()))},
        "mean_text_chars": round(pc.mean(chars).as_py(), 1),
        "median_text_chars": int(pc.quantile(chars, 0.5, interpolation="lower")[0].as_py()),
        "max_text_chars": pc.max(chars).as_py(),
    }


def _print(told: report.Report) -> None:
    """The report for the log."""
    print(f"textify: {', '.join(f'{value:,} {name}' for name, value in told.totals.items())}", flush=True)
    print(f"textify: {told.how}", flush=True)
    for warning in told.warnings:
        print(safe(f"textify: warning: {warning}"), flush=True)
    for one in told.previews:
        print(safe(f"textify: {one.title} {one.prompt} -> {one.target}"), flush=True)
