"""The users to be judged: history, target, and the checked ranking."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from calrec import artifacts
from calrec.config import RetrieveConfig
from calrec.model.loading import Users
from calrec.retrieve.catalogue import Catalogue


@dataclass(frozen=True)
class Case:
    """One user; items are codes."""

    user_id: str
    history: list[int]
    target: int
    excluded: frozenset[int]
    """Items that no method may recommend to this user."""
    ranking: list[int]
    """What was recommended, best first."""


def load_cases(
    recommendations: Path, users: Users, catalogue: Catalogue, split: str, config: RetrieveConfig
) -> list[Case]:
    """The recommendations joined with what was held out.

    Raises:
        ValueError: an unknown user or item, a user without a held-out item, a repeated item, or a list of another
            length than k (or the catalogue, less what is excluded): counts the faults and names the first.
    """
    at = users.test_at if split == "test" else users.valid_at
    row_of = {user: row for row, user in enumerate(users.user_id)}
    code_of = dict(zip(catalogue.item_id, catalogue.items.tolist(), strict=True))
    cases: list[Case] = []
    faults: list[str] = []
    for user, item_ids in _lists(recommendations).items():
        faults += [f"unknown item {item} of user {user}" for item in item_ids if item not in code_of]
        faults += [f"item {i} twice in the list of user {user}" for n, i in enumerate(item_ids) if i in item_ids[:n]]
        if user not in row_of:
            faults.append(f"unknown user {user}")
            continue
        row = row_of[user]
        if at[row] < 0:
            faults.append(f"user {user} has no {split} item")
            continue
        history = users.items[row][: at[row]].tolist()
        excluded = frozenset(history) if config.exclude_seen else frozenset[int]()
        expected = min(config.k, len(catalogue.items) - len(excluded))
        if len(item_ids) != expected:
            faults.append(f"user {user} has {len(item_ids)} items, expected {expected}")
        ranking = [code_of[item] for item in item_ids if item in code_of]
        cases.append(Case(user, history, int(users.items[row][at[row]]), excluded, ranking))
    if faults or not cases:
        first = "; ".join(faults[:3]) or "no user at all"
        raise ValueError(f"{recommendations}: {len(faults)} faults in the rankings: {first}")
    return cases


def _lists(recommendations: Path) -> dict[str, list[str]]:
    """user_id → item ids by rank."""
    table = artifacts.read_table(recommendations, "recommendations.parquet", "recommendations")
    table = table.sort_by([("user_id", "ascending"), ("rank", "ascending")])
    lists: dict[str, list[str]] = defaultdict(list)
    for user, item in zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True):
        lists[user].append(item)
    return lists
