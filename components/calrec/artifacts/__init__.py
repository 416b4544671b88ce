"""The folders that pass between steps: whole only with their manifest, which is written last."""

from calrec.artifacts.manifest import (
    Manifest,
    finish,
    read_manifest,
    read_record,
    read_table,
    read_verified,
    short_hash,
    table_writer,
    write_record,
    write_table,
)
from calrec.artifacts.output import making, writing
from calrec.artifacts.places import MANIFEST, RECORD
from calrec.artifacts.schemas import (
    GENERATIONS,
    INDEX_ITEMS,
    INTERACTIONS,
    ITEM_TEXTS,
    ITEMS,
    KINDS,
    LISTS,
    NOT_KNOWN,
    RANKINGS,
    RANKS,
    RECOMMENDATIONS,
    REJECTS,
    SEQUENCES,
    USERS,
)
from calrec.artifacts.sealed import file_hash

__all__ = [
    "GENERATIONS", "INDEX_ITEMS", "INTERACTIONS", "ITEMS", "ITEM_TEXTS", "KINDS", "LISTS", "MANIFEST",
    "NOT_KNOWN", "RANKINGS", "RANKS", "RECOMMENDATIONS", "RECORD", "REJECTS", "SEQUENCES", "USERS", "Manifest",
    "file_hash", "finish", "making", "read_manifest", "read_record", "read_table", "read_verified", "short_hash",
    "table_writer", "write_record", "write_table", "writing",
]  # fmt: skip
