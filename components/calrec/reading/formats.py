"""The formats that are known: names of their files, their columns, and how their times are written."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".inter", ".item", ".dat", ".data")
WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods")
ITEM_NAMES = ("meta*", "*meta_*", "item*", "product*", "movie*", "article*", "catalog*", "book*", "*.item", "u.item")
# format → names of its event files and of its item files; where a file has a header, it must fit too
NAMED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sequences": (("sequences.jsonl",), ("items.jsonl",)),
    "recbole": (("*.inter",), ("*.item",)),
    "movielens": (("ratings.csv", "ratings.dat", "u.data"), ("movies.csv", "movies.dat", "u.item")),
}
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
# Column names of files that have none.
HEADERS: Mapping[str, tuple[str, ...]] = {
    "ratings.dat": ("userId", "movieId", "rating", "timestamp"),
    "movies.dat": ("movieId", "title", "genres"),
    "u.data": ("userId", "movieId", "rating", "timestamp"),
    "u.item": ("movieId", "title", "released", "video", "url", *GENRES),
}
DELIMITERS = {"ratings.dat": "::", "movies.dat": "::", "u.data": "\t", "u.item": "|"}
_REVIEW = {"user": ("reviewerID",), "item": ("asin",), "time": ("unixReviewTime",), "weight": ("overall",)}
_PRODUCT = {
    "item": ("asin",), "title": ("title",), "category": ("category", "categories", "main_cat"), "brand": ("brand",),
    "price": ("price",),
}  # fmt: skip
# format → columns of its event files and of its item files, where they are always the same
COLUMNS: Mapping[str, tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]] = {
    "amazon2014": (_REVIEW, _PRODUCT),
    "amazon2018": (_REVIEW, _PRODUCT),
    "amazon2023": (
        {"user": ("user_id",), "item": ("parent_asin",), "time": ("timestamp",), "weight": ("rating",)},
        {**_PRODUCT, "item": ("parent_asin",), "category": ("categories", "main_category"), "brand": ("store",)},
    ),
    "movielens": (
        {"user": ("userId",), "item": ("movieId",), "time": ("timestamp",), "weight": ("rating",)},
        {"item": ("movieId",), "title": ("title",), "category": ("genres",)},
    ),
    "sequences": (
        {"user": ("user_id",), "item": ("items",)},
        {**_PRODUCT, "item": ("item_id",), "category": ("categories", "category")},
    ),
}
TIME_FORMAT = {"amazon2014": "s", "amazon2018": "s", "amazon2023": "ms", "movielens": "s"}


def plain_name(name: str) -> str:
    """Last part of the path in lower case, without the ending of a compression."""
    return PurePosixPath(name).name.lower().removesuffix(".gz").removesuffix(".zst")


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a name, or its last part, fits one of the globs."""
    path = PurePosixPath(name)
    return any(glob and (fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(path.name, glob)) for glob in globs)
