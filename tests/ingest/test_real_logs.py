"""The shared real logs: nothing is lost, and what is left is what other programs leave."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from calrec.config import DataConfig, runs
from calrec.config.overrides import override
from calrec.ingest.step import ingest
from tests.conftest import shared

# Folder of the shared data → settings, users, items, interactions with the default rules.
REAL: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "amazon2014-digital-music-prefix": (
        {"events": "reviews*.prefix.json.gz", "items": "meta*.prefix.json.gz"},
        268,
        206,
        2480,
    ),
    "amazon2018-all-beauty-reviews-only": ({}, 140, 24, 710),
    "amazon2018-gift-cards": ({}, 453, 147, 2944),
    "beauty2014": ({}, 22363, 12101, 198502),
    "games2018": ({}, 50335, 16428, 437772),
    "movielens/ml-100k": ({}, 943, 1349, 99287),
    "movielens/ml-latest-small-2016": ({}, 671, 3496, 90072),
    "movielens/recbole-ml-100k": ({}, 943, 1349, 99287),
    "scientific2018": ({}, 8386, 4373, 58983),
    "sports2014-keywords": ({}, 35598, 18357, 296337),
    "toys2014-keywords": ({}, 19412, 11924, 167597),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets_give_known_counts_and_lose_no_row(tmp_path: Path, name: str):
    settings, users, items, interactions = REAL[name]
    manifest = ingest("x", str(shared("data", name)), tmp_path / "out", DataConfig(**settings))
    counts = manifest.counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (users, items, interactions)
    dropped = sum(rule["rows_before"] - rule["rows_after"] for rule in manifest.rules)
    assert counts["event_rows"] == counts["interactions"] + dropped
    assert pq.read_metadata(tmp_path / "out/interactions.parquet").num_rows == interactions
    assert pq.read_metadata(tmp_path / "out/rejects.parquet").num_rows == counts["rejects"] == 0


def in_pandas(log: pd.DataFrame) -> tuple[int, int, int]:
    """Users, items and interactions that the default rules leave of (user, item, time) in the order of the file."""

    def collapsed(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows.user != rows.user.shift()) | (rows["item"] != rows["item"].shift())]

    log = log.assign(tie=log["item"].map(lambda item: hashlib.blake2b(item.encode(), digest_size=8).digest()))
    log = collapsed(log.drop_duplicates(["user", "item", "time"]).sort_values(["user", "time", "tie"], kind="stable"))
    before = -1
    while before != len(log):
        before = len(log)
        for column in ("user", "item"):
            log = log[log.groupby(column)["time"].transform("size") >= 5]
        log = collapsed(log)
    return log["user"].nunique(), log["item"].nunique(), len(log)


@pytest.mark.parametrize("name", [name for name in REAL if "amazon20" in name or name.startswith("movielens/ml")])
def test_real_logs_are_cleaned_as_pandas_does_it(name: str):
    folder = shared("data", name)
    if name.startswith("amazon"):
        (path,) = [*folder.glob("reviews*prefix*"), *folder.glob("*_5.json.gz")][:1]
        log = pd.read_json(path, lines=True)[["reviewerID", "asin", "unixReviewTime"]]
    elif name.endswith("100k"):
        log = pd.read_csv(folder / "u.data", sep="\t", header=None, usecols=[0, 1, 3], dtype={0: str, 1: str})
    else:
        log = pd.read_csv(folder / "ratings.csv", usecols=[0, 1, 3], dtype={"userId": str, "movieId": str})
    assert in_pandas(log.set_axis(["user", "item", "time"], axis=1)) == REAL[name][1:]


def test_as_found_sets_keep_every_event_without_rules(tmp_path: Path):
    counts = ingest(
        "s", str(shared("data", "scientific2018")), tmp_path / "out", DataConfig(dedup="none", min_user=0, min_item=0)
    ).counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (8442, 4385, 59384)


def test_titles_that_are_page_fragments_are_missing(tmp_path: Path):
    ingest("s", str(shared("data", "scientific2018")), tmp_path / "out", DataConfig(min_user=0, min_item=0))
    titles = pq.read_table(tmp_path / "out/items.parquet")["title"].to_pylist()
    assert (titles.count("Industrial & Scientific"), titles.count("")) == (0, 24)
    assert not any("/>" in str(title) for title in titles)


def test_the_schema_sample_of_2023_is_read_but_leaves_no_user(tmp_path: Path):
    with pytest.raises(ValueError, match="none of the 2 items of the log is in the metadata"):
        ingest(
            "x", str(shared("data", "amazon2023-schema-sample")), tmp_path / "out", DataConfig(min_user=0, min_item=0)
        )


def test_the_truncated_files_are_refused(tmp_path: Path):
    found = shared("data", "amazon2014-digital-music-prefix")
    with pytest.raises(
        ValueError, match=r"reviews_Digital_Music_5.json.gz: damaged after line \d,\d{3} .*or leave it out"
    ):
        ingest("x", str(found), tmp_path / "out", DataConfig(events="*reviews*", items="meta*"))
    assert not (tmp_path / "out").exists()


RETAIL = override(
    runs.sample(),
    [
        "data.columns.user=CustomerID",
        "data.columns.item=StockCode",
        "data.columns.title=Description",
        r"data.filters=CustomerID!=,UnitPrice>0,StockCode~^\d{5}",
    ],
).data


def retail_in_pandas(cancel: bool) -> tuple[list[int], pd.DataFrame]:
    """Rows after each rule of the README's example on Online Retail, down to one event per user, item and time."""
    log = pd.read_parquet(shared("data", "online-retail-uci", "online_retail.parquet"))
    after = [len(log)]

    def keep(rows: pd.DataFrame) -> pd.DataFrame:
        after.append(len(rows))
        return rows

    log = keep(log[log.CustomerID.notna()])
    log = keep(log[log.UnitPrice > 0])
    log = keep(log[log.StockCode.str[:5].str.isdigit() & (log.StockCode.str.len() >= 5)])
    log = log.set_axis(["invoice", "item", "title", "n", "time", "price", "user", "country"], axis=1)
    if cancel:
        log = taken_back(log)
        log = keep(log[~((log.n < 0) & ~log.matched)])
        log = keep(log[log.n >= 0])
        log = keep(log[log.rest > 0].assign(n=lambda rows: rows.rest))
    else:
        log = keep(log[log.n >= 0])
    log = keep(log.groupby(["user", "item", "time"], as_index=False, sort=False).agg(n=("n", "sum")))
    return after, log.assign(user=log.user.astype(int).astype(str))


def taken_back(log: pd.DataFrame) -> pd.DataFrame:
    """`rest` of each purchase, and whether a return is `matched`: last in, first out, by user and item."""
    log = log.assign(back=log.n < 0).sort_values(["time", "back"], kind="stable")
    amount = log.n.tolist()
    rest, matched = [max(n, 0) for n in amount], [n > 0 for n in amount]
    held: dict[Any, list[int]] = {}
    for at, key in enumerate(zip(log.user, log["item"], strict=True)):
        bought = held.setdefault(key, [])
        if amount[at] > 0:
            bought.append(at)
            continue
        matched[at] = bool(bought)
        owed = -amount[at]
        while bought and owed:
            part = min(owed, rest[bought[-1]])
            rest[bought[-1]] -= part
            owed -= part
            if not rest[bought[-1]]:
                bought.pop()
    return log.assign(rest=rest, matched=matched)


@pytest.mark.parametrize("returns", ["drop", "cancel"])
def test_online_retail_is_what_pandas_leaves(tmp_path: Path, returns: str):
    after, log = retail_in_pandas(returns == "cancel")
    data = dataclasses.replace(RETAIL, returns=returns)
    manifest = ingest("retail", str(shared("data", "online-retail-uci")), tmp_path / "out", data)
    found = [rule["rows_after"] for rule in manifest.rules]
    assert found[: len(after)] == after
    known = {
        "drop": [541_909, 406_829, 406_789, 404_876, 396_337, 386_250],
        "cancel": [541_909, 406_829, 406_789, 404_876, 403_820, 396_337, 393_527, 383_536],
    }
    assert after == known[returns]
    counts = manifest.counts
    assert (counts["users"], counts["items"], counts["interactions"]) == in_pandas(log)
    events = pq.read_table(tmp_path / "out/interactions.parquet").to_pandas()
    keyed = log.assign(time=log.time.astype("datetime64[ms]").astype("int64")).set_index(["user", "item", "time"]).n
    assert keyed.loc[pd.MultiIndex.from_frame(events[["user_id", "item_id", "timestamp"]])].tolist() == list(
        events.weight
    )


def test_online_retail_without_rules_says_what_is_wrong_with_it(tmp_path: Path):
    source = str(shared("data", "online-retail-uci"))
    every = dataclasses.replace(RETAIL, filters=())
    with pytest.raises(ValueError, match="135,080 of 541,909 rows .* left out by --set 'data.filters=CustomerID!='"):
        ingest("retail", source, tmp_path / "out", every)
    manifest = ingest("retail", source, tmp_path / "out", dataclasses.replace(every, filters=("CustomerID!=",)))
    # SOURCE.md: 8,905 cancellations with a customer, 397,924 other lines, 10,127 of these agree with an earlier one.
    lost = {rule["rule"]: (rule["rows_before"] - rule["rows_after"], rule["rows_after"]) for rule in manifest.rules}
    assert lost["returns (negative weight)"] == (8905, 397_924)
    assert lost["one event per user, item and time (weights added)"][0] == 10_127
    assert "8,905 events of negative weight are dropped as returns" in manifest.warnings[0]
    (hint,) = [note for note in manifest.notes if note.startswith("hint")]
    assert "POST (1,084 events), M (240 events), C2" in hint and r"data.filters=CustomerID!=,StockCode~^\d'" in hint


def test_returns_of_online_retail_empty_the_known_number_of_pairs():
    log = pd.read_parquet(shared("data", "online-retail-uci", "online_retail.parquet")).dropna(subset="CustomerID")
    log = taken_back(
        log.rename(columns={"CustomerID": "user", "StockCode": "item", "Quantity": "n", "InvoiceDate": "time"})
    )
    pairs = log.groupby(["user", "item"]).agg(
        total=("n", "sum"), least=("n", "min"), most=("n", "max"), rest=("rest", "sum")
    )
    both = pairs[(pairs.least < 0) & (pairs.most > 0)]
    # 1,582 pairs of customer and product whose returns are as many as their purchases, whenever they were; in 98 of
    # them a return is older than a purchase, which it cannot take back.
    assert ((both.total <= 0).sum(), (both.rest == 0).sum()) == (1582, 1484)
