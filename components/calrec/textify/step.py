"""The textify step: interactions and items of all categories in, texts and split sequences out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import TextConfig
from calrec.settings import to_dict
from calrec.textify import sequences
from calrec.textify.texts import item_text


def textify(data: Sequence[Path], out: Path, text: TextConfig) -> Manifest:
    """Write item texts (one row per item, the row number is the item's code) and sequences with their split.

    Args:
        data: folders that the ingest step wrote, one per category.
        out: the folder to make.
        text: the template.

    Raises:
        ValueError: a category comes twice.
    """
    folders = sorted(Path(folder) for folder in data)
    manifests = [artifacts.read_manifest(folder, "interactions") for folder in folders]
    domains = [str(manifest.config["domain"]) for manifest in manifests]
    if len(set(domains)) < len(domains):
        raise ValueError(f"a category comes twice: {', '.join(sorted(domains))}")
    by_domain = sorted(zip(domains, folders, strict=True))

    items = pa.concat_tables(artifacts.read_table(f, "items.parquet", "interactions") for _, f in by_domain)
    users, histories = _histories([folder for _, folder in by_domain], items)
    lengths = np.array([len(history) for history in histories])
    train_end, valid_at, test_at = sequences.leave_last_out(lengths)
    counts = sequences.train_counts(histories, train_end, len(items))
    texts = [item_text(row, text.attributes) for row in items.to_pylist()]
    groups = sequences.text_groups(texts, items["domain"].to_pylist(), counts)

    item_texts = pa.table(
        [
            items["item_id"],
            items["domain"],
            items["title"],
            pa.array(texts),
            pa.array(groups),
            pa.array(counts, pa.int32()),
        ],
        schema=artifacts.ITEM_TEXTS,
    )
    table = pa.table(
        [
            *zip(*users, strict=True),
            pa.array(histories, pa.list_(pa.int32())),
            *(pa.array(column, pa.int32()) for column in (train_end, valid_at, test_at)),
        ],
        schema=artifacts.SEQUENCES,
    )
    sizes = {
        "domains": len(domains),
        "items": len(items),
        "users": len(table),
        "interactions": int(lengths.sum()),
        "text_groups": int(groups.max()) + 1,
        "mean_text_chars": round(float(np.mean([len(t) for t in texts])), 1),
    }
    print(f"textify: {', '.join(f'{value:,} {name}' for name, value in sizes.items())}", flush=True)
    print(f"textify: for example {texts[0]!r}", flush=True)
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(folder, "items.parquet", item_texts)
        artifacts.write_table(folder, "sequences.parquet", table)
        return artifacts.finish(
            folder,
            Manifest(
                "texts",
                config={"domains": sorted(domains), "text": to_dict(text), "split": "leave_last_out"},
                counts=sizes,
                inputs={f"data.{domain}": m.digest for domain, m in zip(domains, manifests, strict=True)},
            ),
        )


def _histories(folders: list[Path], items: pa.Table) -> tuple[list[tuple[str, str]], list[np.ndarray]]:
    """(user_id, domain) and the item codes, oldest first, of every user of every category."""
    code_of = {
        key: code
        for code, key in enumerate(zip(items["domain"].to_pylist(), items["item_id"].to_pylist(), strict=True))
    }
    users: list[tuple[str, str]] = []
    histories: list[np.ndarray] = []
    for folder in folders:
        table = artifacts.read_table(folder, "interactions.parquet", "interactions")
        domain = table["domain"][0].as_py()
        codes = np.array([code_of[domain, item_id] for item_id in table["item_id"].to_pylist()], dtype=np.int32)
        runs = pc.run_end_encode(table["user_id"].combine_chunks())
        ends = runs.run_ends.to_numpy()
        assert len(pc.unique(runs.values)) == len(ends), "interactions are sorted by user"
        users += [(user, domain) for user in runs.values.to_pylist()]
        histories += np.split(codes, ends[:-1])
    return users, histories
