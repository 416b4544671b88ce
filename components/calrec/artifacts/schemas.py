"""The files that pass between steps: names and schemas, by kind of folder."""

from collections.abc import Mapping

import pyarrow as pa

NOT_KNOWN = "not known"
"""In the place of what the registry has of a target, when it did not answer; that is another thing than none."""

INTERACTIONS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        # Milliseconds since 1970 in UTC, or the position in the history when the manifest says time = "order".
        ("timestamp", pa.int64()),
        ("domain", pa.string()),
        # Rating or quantity.
        ("weight", pa.float32()),
    ]
)
ITEMS = pa.schema([(name, pa.string()) for name in ("item_id", "domain", "title", "category", "brand", "price")])
REJECTS = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])

# Row i is item i: every later table speaks of items by this row number.
ITEM_TEXTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("domain", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        # As ingest read them, whether the text names them or not.
        ("brand", pa.string()),
        ("price", pa.string()),
        ("text", pa.string()),
        # Items of a domain with one text form a group; numbered by falling training frequency, then by text.
        ("group", pa.int32()),
        ("train_count", pa.int32()),
    ]
)
# items[:train_end] is training; items[valid_at] and items[test_at] are held out (-1: none), history is what precedes.
# With test_at = -1 no item lies in the test window: users whose every item does are left out of the table.
# Where baskets are held out, the target is the first item of its basket; the rest of the test basket serves nothing.
SEQUENCES = pa.schema(
    [
        ("user_id", pa.string()),
        ("domain", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("train_end", pa.int32()),
        ("valid_at", pa.int32()),
        ("test_at", pa.int32()),
    ]
)
# The catalogue that is searched: row i is item i of the index. Items of one text form a group, as in ITEM_TEXTS.
INDEX_ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("brand", pa.string()),
        ("price", pa.string()),
        ("text", pa.string()),
        ("group", pa.int32()),
        ("train_count", pa.int32()),
    ]
)
GENERATIONS = pa.schema(
    [
        ("user_id", pa.string()),
        ("text", pa.string()),
        # Log-probability at temperature 1, end token included; the best of the samples that gave this text.
        ("logprob", pa.float64()),
        ("count", pa.int32()),
        # False when the text was cut at max_new_tokens.
        ("finished", pa.bool_()),
    ]
)
RECOMMENDATIONS = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("title", pa.string()),
        # What the list is sorted by: the fused score, the sum of reciprocal ranks, the log-probability of the item, or
        # that mixed with other sources.
        ("score", pa.float64()),
        # What put the item here: generation, last_title, dense, cooccurrence, or fill when nothing did.
        ("source", pa.string()),
        # The text that found it: generated, of the last item, or empty.
        ("reason", pa.string()),
        # The text's log-probability; the item's own when the list is ranked by it; null without a text.
        ("logprob", pa.float64()),
        # How well the text fits the item: its BM25 score between the lowest (0) and the highest (1) of the catalogue.
        ("match", pa.float64()),
    ]
)
# What a batch writes.
LISTS = RECOMMENDATIONS.append(
    # Such as models:/calrec-books/3, or the content of a model's folder.
    pa.field("model_version", pa.string())
)
# Lists of another recommender than the one that is evaluated.
RANKINGS = pa.schema([RECOMMENDATIONS.field(name) for name in ("user_id", "rank", "item_id")])
# One row per user and method: "calrec", a baseline or a ranking from elsewhere. Rank 0: the target is not in the list.
RANKS = pa.schema(
    [
        ("user_id", pa.string()),
        ("method", pa.string()),
        ("rank", pa.int32()),
        # The same if the target came first, or last, among the items of its score in the list.
        ("rank_best", pa.int32()),
        ("rank_worst", pa.int32()),
        # Of the first item with the target's text.
        ("rank_text", pa.int32()),
    ]
)
USERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("target", pa.string()),
        ("target_category", pa.string()),
        # The lower end of a range; null without a price.
        ("target_price", pa.float64()),
        ("target_train_count", pa.int32()),
        ("target_in_history", pa.bool_()),
        ("history_length", pa.int32()),
        ("samples", pa.int32()),
        ("distinct_share", pa.float64()),
        ("exact_match_share", pa.float64()),
        # Of the first item of the model's list, as in RECOMMENDATIONS.
        ("match", pa.float64()),
    ]
)

# kind of folder → schema version and the files that it must hold
KINDS: Mapping[str, tuple[int, Mapping[str, pa.Schema | None]]] = {
    "interactions": (
        2,
        {
            "interactions.parquet": INTERACTIONS,
            "items.parquet": ITEMS,
            "rejects.parquet": REJECTS,
            "report.md": None,
            "report.html": None,
        },
    ),
    "texts": (
        4,
        {"items.parquet": ITEM_TEXTS, "sequences.parquet": SEQUENCES, "report.md": None, "report.html": None},
    ),
    # int32 ids of units, one after the other, and the int64 offset of each: calrec.textify.tokens.TokenCache.
    "tokens": (2, {"ids.npy": None, "offsets.npy": None, "report.md": None, "report.html": None}),
    "model": (1, {"config.json": None, "tokenizer.json": None}),
    "generations": (1, {"generations.parquet": GENERATIONS}),
    "recommendations": (2, {"recommendations.parquet": RECOMMENDATIONS}),
    "rankings": (1, {"rankings.parquet": RANKINGS}),
    # Files of calrec.retrieve.stored.
    "index": (
        2,
        {
            "items.parquet": INDEX_ITEMS,
            **dict.fromkeys(("ids.npy", "token_offsets.npy", "following.npz")),
            **dict.fromkeys(("offsets.npy", "groups.npy", "weights.npy", "words.parquet", "bm25.json")),
        },
    ),
    # Parts of recommendations for many users, and what was left out: calrec.recommend.parts.
    "batch": (1, {"rejects.parquet": None}),
    "evaluation": (
        3,
        {
            "ranks.parquet": RANKS,
            "users.parquet": USERS,
            **dict.fromkeys(("report.md", "report.html", "metrics.json", "profile.json")),
        },
    ),
    "decision": (1, {"decision.md": None}),
    # Beside them whole folders model/ and index/: calrec.promote.version.
    "version": (1, dict.fromkeys(("settings.json", "card.md", "profile.json"))),
}
