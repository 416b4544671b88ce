"""A model and a catalogue's index, ready to recommend: histories in, ranked items with reasons out."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calrec import artifacts
from calrec.arrays.ragged import Ragged, running
from calrec.config import GenerateConfig, RetrieveConfig, TextConfig
from calrec.config.overrides import from_dict
from calrec.generate.samples import Generation, Prompt
from calrec.model import checkpoint
from calrec.model.device import place_network, use_threads
from calrec.reading.catalogue import clean_item
from calrec.recommend.rows import Described, History, Reject
from calrec.retrieve import stored
from calrec.retrieve.candidates import Asked, Ranked
from calrec.retrieve.catalogue import allowed_items
from calrec.retrieve.evidence import RECENT, Fusion
from calrec.retrieve.ranking import Ranker
from calrec.retrieve.reader import Reader
from calrec.retrieve.search import Search
from calrec.textify.encoding import FORMS, TextPrompts, encode_items
from calrec.textify.texts import item_text
from calrec.textify.tokens import TokenCache
from calrec.textify.words import normal


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which items may be recommended."""

    in_stock: tuple[str, ...] | None = None
    """Ids; None: all."""
    categories: tuple[str, ...] = ()
    """Empty: all."""


class Recommender:
    """Answers for any number of users; the model and the index are loaded once."""

    def __init__(
        self,
        model: Path,
        index: Path,
        generate: GenerateConfig,
        retrieve: RetrieveConfig,
        filters: Filters | None = None,
    ):
        """Load the model and the index.

        Args:
            model: folder of the finetune step.
            index: folder of `calrec index`.
            generate: how texts are sampled.
            retrieve: how items are ranked; `k` items each. k1 and b are those of the index.
            filters: which items may be recommended.

        Raises:
            ValueError: an index of another model or that was changed; filters that leave no item.
        """
        from calrec.generate.texts import Generator

        use_threads(generate.threads)
        self.of_model = artifacts.read_manifest(model, "model")
        network, tokenizer = checkpoint.load(model)
        self.stored = stored.load(index, tokenizer, self.of_model)
        trained = self.of_model.config.get("domains") or [self.stored.domain]
        if self.stored.domain not in trained:
            print(
                f"recommend: warning: the model was trained on {', '.join(trained)}, and the index holds "
                f"{self.stored.domain}; is it the right one?",
                file=sys.stderr,
            )
        _refuse_other_bm25(self.stored.manifest.config["retrieve"], retrieve)
        self.catalogue, self.cache, self._tokenizer = self.stored.catalogue, self.stored.cache, tokenizer
        self._text = from_dict(TextConfig, self.stored.manifest.config["text"])
        self._retrieve, self._fused = retrieve, self._fusion(retrieve)
        network, targets = place_network(network), self.cache.targets(self.catalogue.first)
        self._generator = Generator(network, tokenizer, self.cache.end, generate, targets)
        self._reader: Reader | None = None
        if retrieve.reads_model:
            self._reader = Reader(network, targets, retrieve.memory_gb * 1e9, self.stored.vectors)
        self._search = Search(self.stored.index, retrieve.threads)
        self._ranker = self.ranker(filters or Filters())
        self._code_of = {item: code for code, item in enumerate(self.catalogue.item_id)}
        self._titled: dict[str, int] = {}
        for members in self.catalogue.members:  # of items with one title the most frequent one counts
            self._titled.setdefault(_plain(self.catalogue.title[members[0]]), members[0])
        pairs = zip(self.catalogue.group_texts, self.catalogue.members, strict=True)
        self._code_of_text = {text: members[0] for text, members in pairs}
        # No prompt holds more texts: each has a token at least, and the phrase behind it.
        self._read = max(RECENT, self.cache.max_tokens // (1 + len(self.cache.following)))

    def __call__(self, users: Sequence[History]) -> tuple[list[list[Ranked]], list[Reject]]:
        """The list of each user, and what of the histories is not known and was left out."""
        asked, rejects = self.queries(users)
        return list(self._ranker(asked)), rejects

    def queries(self, users: Sequence[History]) -> tuple[list[Asked], list[Reject]]:
        """What a ranker must know of each user, texts by the model among it; and what of the histories is not known."""
        rejects: list[Reject] = []
        extra: dict[str, int] = {}
        histories = [self._codes(one, extra, rejects) for one in users]
        cache = self._with(list(extra))
        prompts = [
            Prompt(one.user_id, ids, cache.barred)
            for one, ids in zip(users, cache.assemble(histories).rows(), strict=True)
        ]
        of_users = zip(histories, prompts, self._generator(prompts), strict=True)
        return [self._asked(codes, list(extra), prompt, its) for codes, prompt, its in of_users], rejects

    def ranker(self, filters: Filters, k: int | None = None) -> Ranker:
        """Ranks as the settings say; it shares model and index with the others, and remembers what it has looked up.

        Args:
            filters: which items may be recommended.
            k: how many; None: as the settings say.

        Raises:
            ValueError: a category that no item has, or filters that leave no item.
        """
        return Ranker(
            self.catalogue,
            self._search,
            self._retrieve if k is None else dataclasses.replace(self._retrieve, k=k),
            self._reader,
            self.stored.evidence,
            self._fused,
            allowed_items(self.catalogue, filters.in_stock, filters.categories),
        )

    def unknown(self, items: Sequence[str]) -> list[str]:
        """The ids that the index does not hold, each once."""
        return [item for item in dict.fromkeys(items) if item not in self._code_of]

    def _fusion(self, retrieve: RetrieveConfig) -> Fusion | None:
        """The index's weights, where they are asked for."""
        if not retrieve.fusion_users:
            return None
        if self.stored.fusion is None:
            raise ValueError(
                f"retrieve.fusion_users={retrieve.fusion_users}, but the index holds no weights; build it again with "
                f"--set retrieve.fusion_users={retrieve.fusion_users} --set retrieve.rerank={retrieve.rerank}"
            )
        return self.stored.fusion

    def _asked(self, codes: list[int], extra: list[str], prompt: Prompt, generations: list[Generation]) -> Asked:
        """What the ranker must know; codes behind the catalogue's are those of `extra`."""
        known = [code for code in codes if code < len(self._code_of)]
        newest = [self._text_of(code, extra) for code in codes[-RECENT:]]
        banned = frozenset(known) if self._retrieve.exclude_seen else frozenset[int]()
        return Asked.of(prompt.user, known, newest, prompt, generations, banned)

    def _text_of(self, code: int, extra: list[str]) -> str:
        behind = code - len(self._code_of)
        return extra[behind] if behind >= 0 else self.catalogue.text(code)

    def _codes(self, one: History, extra: dict[str, int], rejects: list[Reject]) -> list[int]:
        """Codes of a history; what no item is becomes a text of its own behind the catalogue's."""
        codes = []
        for item in one.items:
            if item in self._code_of:
                codes.append(self._code_of[item])
            else:
                rejects.append(Reject(f"user {one.user_id}", "an item that the index does not hold", item))
        described = (*map(Described, one.titles), *one.attributes)
        for newer, each in zip(reversed(range(len(described))), described, strict=True):
            known = self._known(each)
            if known is None and newer < self._read:  # an older text is in no prompt
                known = extra.setdefault(self._described(each), len(self._code_of) + len(extra))
            if known is not None:
                codes.append(known)
        return codes

    def _known(self, item: Described) -> int | None:
        """The item with this id or title, or, where more is said of it, with this text."""
        if item == Described(item.title):
            return self._code_of.get(item.title, self._titled.get(_plain(item.title)))
        return self._code_of_text.get(self._described(item))

    def _described(self, item: Described) -> str:
        """The item's text, cleaned as a catalogue's."""
        return item_text(clean_item(vars(item)), self._text.attributes)

    def _with(self, texts: list[str]) -> TokenCache:
        """The token cache with further texts behind the catalogue's."""
        if not texts:
            return self.cache
        form, limit = FORMS[self.stored.manifest.config["form"]], self._text.max_item_tokens
        encoded = encode_items(texts, self._tokenizer, form, limit)
        old = self.cache.units
        border = old.offsets[-3]  # behind the last item; the two phrases stay last
        new = Ragged.of([np.concatenate([ids, self.cache.following]) for ids in encoded.ids])
        flat = np.concatenate([old.flat[:border], new.flat, old.flat[border:]])
        lengths = np.concatenate([old.lengths()[:-2], new.lengths(), old.lengths()[-2:]])
        units = Ragged(flat, running(lengths))
        if isinstance(self.cache, TextPrompts):
            return dataclasses.replace(self.cache, units=units, texts=[*self.cache.texts, *encoded.texts])
        return dataclasses.replace(self.cache, units=units)

    def new_title(self, title: str) -> bool:
        """Whether no item of the catalogue has this id or title."""
        return title not in self._code_of and _plain(title) not in self._titled

    def fingerprint(self) -> dict[str, Any]:
        """Which model and which catalogue."""
        return {"model": self.of_model.digest, "index": self.stored.manifest.digest}


def _refuse_other_bm25(built: Mapping[str, Any], asked: RetrieveConfig) -> None:
    for name in ("k1", "b"):
        if getattr(asked, name) != built[name]:
            raise ValueError(
                f"retrieve.{name}={getattr(asked, name)}, but the index was built with {built[name]}; build it again "
                f"with --set retrieve.{name}={getattr(asked, name)}, or leave the setting out"
            )


def _plain(title: str) -> str:
    return " ".join(normal(title).split())
