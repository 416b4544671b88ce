"""From prompts to the distinct texts that a model writes for each user."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from calrec.arrays.ragged import Ragged
from calrec.config import GenerateConfig
from calrec.generate import hf, shared_prefix, vllm
from calrec.generate.decoder import suits
from calrec.generate.samples import Generation, Prompt, Sample


class Generator:
    """Writes texts with one model and one set of settings."""

    def __init__(self, network: Any, tokenizer: Any, end: int, config: GenerateConfig, items: Ragged):
        """Choose the sampler; the reference takes over, and says so, where prompts cannot be shared.

        Args:
            network: where it runs.
            tokenizer: the network's.
            end: the token that closes a text.
            config: of the sampling.
            items: token ids of the catalogue's item texts, for decoding that is bound to them.

        Raises:
            ValueError: the settings want what this architecture does not allow.
        """
        self.network, self.tokenizer, self.end, self.config = network, tokenizer, end, config
        self.backend = config.backend
        self.tokens = 0
        """Of all samples so far, end tokens included."""
        if config.backend == "shared_prefix" and (why := suits(network)):
            if config.trie != "off":
                raise ValueError(
                    f"generate.trie={config.trie} needs shared prompts, which {type(network).__name__} does not allow "
                    f"({why}); set generate.trie=off"
                )
            print(f"generate: warning: prompts cannot be shared ({why}); the slower reference samples", flush=True)
            self.backend = "hf"
        self._items = _distinct(items) if config.trie != "off" else items
        self._new = int(items.lengths().max()) if config.trie != "off" else config.max_new_tokens

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        """The prompts in parts that are decoded together, so that a caller can show the progress."""
        at = 0
        while at < len(prompts):
            size = self._together(prompts[at:])
            yield prompts[at : at + size]
            at += size

    def generate_all(self, prompts: Sequence[Prompt]) -> Iterator[list[Generation]]:
        """The texts of any number of prompts, in their order, batch after batch."""
        for batch in self.batches(prompts):
            yield from self(batch)

    def _together(self, prompts: Sequence[Prompt]) -> int:
        if self.backend == "shared_prefix":
            memory = self.config.memory_gb * 1e9
            return shared_prefix.together(self.network, prompts, self.config.samples, self._new, memory)
        return 1 if self.backend == "hf" else len(prompts)

    def __call__(self, prompts: Sequence[Prompt]) -> Iterator[list[Generation]]:
        """The texts of each prompt, in the order of the prompts.

        Raises:
            FloatingPointError: the model's logits are not finite; names the user.
            ValueError: more tokens than the model has positions.
        """
        longest = max((len(prompt.ids) for prompt in prompts), default=0)
        room = int(getattr(self.network.config.get_text_config(), "max_position_embeddings", 0) or 0)
        if 0 < room < longest + self._new:
            raise ValueError(
                f"a prompt of {longest} tokens and {self._new} new ones need more positions than the model's {room}; "
                f"set generate.max_new_tokens to {room - longest} or less, or lower text.max_tokens"
            )
        for samples in self._sample(prompts):
            yield self._texts(samples)

    def _sample(self, prompts: Sequence[Prompt]) -> Iterator[list[Sample]]:
        if self.config.trie != "off":
            from calrec.generate import constrained  # compiled code, which else is not needed

            return constrained.sample(self.network, prompts, self._items, self.config)
        backend = {"hf": hf, "shared_prefix": shared_prefix, "vllm": vllm}[self.backend]
        return backend.sample(self.network, prompts, self.end, self.config)  # type: ignore[attr-defined,no-any-return]

    def _texts(self, samples: Sequence[Sample]) -> list[Generation]:
        """Continuations as texts; those that read alike are one."""
        self.tokens += sum(one.count * (len(one.tokens) + one.finished) for one in samples)
        decoded = self.tokenizer.batch_decode([list(s.tokens) for s in samples], skip_special_tokens=True)
        found: dict[str, Generation] = {}
        for text, one in zip((" ".join(text.split()) for text in decoded), samples, strict=True):
            new, old = Generation(text, one.logprob, one.count, one.finished), found.get(text)
            if old is None:
                found[text] = new
            else:
                better = new if new.logprob > old.logprob else old
                found[text] = replace(better, count=old.count + new.count)
        return list(found.values())


def _distinct(items: Ragged) -> Ragged:
    """Each row once: texts that were cut may have become equal."""
    return Ragged.of(list({row.tobytes(): row for row in items.rows()}.values()))
