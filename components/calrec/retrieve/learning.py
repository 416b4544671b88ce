"""The weights of learned fusion, from validation users."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calrec.config import GenerateConfig, RetrieveConfig
from calrec.generate.samples import Generation, Prompt
from calrec.model.device import place_network
from calrec.model.loading import Users, load_model, saw_validation
from calrec.report.progress import Progress
from calrec.retrieve.candidates import Asked
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.evidence import RECENT, Evidence, Fusion
from calrec.retrieve.following import countable
from calrec.retrieve.ranking import Ranker
from calrec.retrieve.reader import Reader
from calrec.retrieve.search import Search
from calrec.textify.tokens import TokenCache

Ints = NDArray[np.int64]
Write = Callable[[Sequence[Prompt]], Iterator[Sequence[Generation]]]

_USERS = 512  # whose candidates are looked at together


def learn_fusion(
    users: Users,
    catalogue: Catalogue,
    search: Search,
    config: RetrieveConfig,
    reader: Reader,
    cache: TokenCache,
    write: Write,
    asked: Collection[str] = (),
) -> Fusion:
    """Learn on a fixed random sample of `config.fusion_users` validation users how much each piece of evidence weighs.

    Everything is counted in what precedes the validation items, which the model was not trained on either. Candidates
    are those of a user who is ranked for, what the model writes among them.

    Args:
        users: of the category.
        catalogue: its items.
        search: over its texts.
        config: which candidates.
        reader: the model.
        cache: its token cache.
        write: what the model writes for each prompt.
        asked: ids of users who may teach nothing, since they will be ranked for by their validation items.

    Raises:
        ValueError: no validation user is left, or none whose next item is among the candidates.
    """
    able = np.array([at for at in np.flatnonzero(users.valid_at >= 0) if users.user_id[at] not in asked], np.int64)
    if not len(able):
        raise ValueError(
            f"retrieve.fusion_users={config.fusion_users} learns from validation users, and none is left; lower "
            "generate.max_users, or set fusion_users to 0"
        )
    rows = np.sort(np.random.default_rng(0).permutation(able)[: config.fusion_users])
    ranker = Ranker(catalogue, search, config, reader, Evidence.of(countable(users, "valid"), catalogue, fused=True))
    progress = Progress("learn to fuse", len(rows))
    features, places = [], []
    for start in range(0, len(rows), _USERS):
        part = rows[start : start + _USERS]
        before = list(of_history(users, part, "valid", catalogue, cache, config.exclude_seen))
        for row, (groups, its) in zip(part, ranker.candidates(_with_texts(before, write)), strict=True):
            found = np.flatnonzero(groups == catalogue.group(int(users.items[row][users.valid_at[row]])))
            places.append(int(found[0]) if len(found) else -1)
            features.append(its)
        progress.add(len(part))
    progress.end()
    fusion = Fusion.learn(features, places)
    told = ", ".join(f"{name} {weight:.3g}" for name, weight in fusion.weights.items())
    print(f"weights of {fusion.users:,} users: {told}", flush=True)
    return fusion


def learn_with_model(
    model: Path,
    tokens: Path,
    texts: Path,
    users: Users,
    catalogue: Catalogue,
    search: Search,
    config: RetrieveConfig,
    sampling: GenerateConfig,
    asked: Collection[str] = (),
) -> Fusion:
    """Open a model, and learn with it; arguments as in :func:`learned`.

    Raises:
        ValueError: the model was trained on the validation items; else as :func:`learned`.
    """
    from calrec.generate.texts import Generator

    network, tokenizer, cache, of_model = load_model(model, tokens, texts)
    if saw_validation(of_model):
        raise ValueError(
            f"retrieve.fusion_users={config.fusion_users} learns from validation items, and {model} was trained on "
            "them (until = test); give the model before its refit as --learner, or set fusion_users to 0"
        )
    network, targets = place_network(network), cache.targets(catalogue.first)
    reader = Reader(network, targets, config.memory_gb * 1e9)
    write = Generator(network, tokenizer, cache.end, sampling, targets).generate_all
    return learn_fusion(users, catalogue, search, config, reader, cache, write, asked)


def _with_texts(asked: Sequence[Asked], write: Write) -> list[Asked]:
    """The same users, and what the model writes for each."""
    written = write([one.prompt for one in asked if one.prompt is not None])
    return [replace(one, generations=texts) for one, texts in zip(asked, written, strict=True)]


def of_history(
    users: Users,
    rows: Sequence[int] | Ints,
    split: str,
    catalogue: Catalogue,
    cache: TokenCache | None,
    exclude_seen: bool,
    generations: Sequence[Sequence[Generation]] | None = None,
) -> Iterator[Asked]:
    """What is known of users before their test or validation item.

    Args:
        users: of the category.
        rows: which ones.
        split: test or valid.
        catalogue: its items.
        cache: where the model reads prompts; None: it does not.
        exclude_seen: whether the history may not be listed.
        generations: texts of each user; None: no texts.
    """
    ends = users.test_at if split == "test" else users.valid_at
    for at, row in enumerate(rows):
        history = users.items[row][: ends[row]]
        user = users.user_id[row]
        yield Asked.of(
            user,
            history.tolist(),
            [catalogue.text(item) for item in history[-RECENT:].tolist()],
            Prompt(user, cache.history(history)[0], cache.barred) if cache else None,  # type: ignore[arg-type]
            generations=generations[at] if generations else (),
            banned=frozenset(history.tolist()) if exclude_seen else frozenset(),
        )
