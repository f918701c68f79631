"""Prompts to embeddings with a cache; where a prompt's words and its end-of-text token are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadModel, BadRequest
from efface.hosts.components import unwrapped
from efface.hosts.conditions import PLAIN, Encoding
from efface.hosts.identity import fingerprint
from efface.randomness import evaluating

TOKENS_PER_PASS = 32 * 77
"""Tokens that go through an encoder together: enough to be quick, few enough to fit."""

ENDS, BEGINS = "</w>", ("\u2581", "\u0120")
"""What marks the end of a word in CLIP's vocabulary, and the beginning of one in others."""

__all__ = ["Embedder", "TokenisedPrompt", "plain_words"]


@dataclass(frozen=True)
class TokenisedPrompt:
    """A prompt as the text encoder reads it: begin, content, end, padding."""

    text: str
    ids: tuple[int, ...]
    """As many as the encoder reads; ``ids[0]`` is the begin token."""
    end: int
    """Position of the (first) end-of-text token."""
    begin: int = 1
    """How many begin tokens there are: 1 in CLIP, 0 in T5."""
    masked: bool = False
    """Whether padding is hidden from whatever reads the rows."""

    framed: ClassVar[bool] = False
    """Whether the prompt stands in an instruction, and rows after it know of it."""

    @property
    def read(self) -> int:
        """How many positions are read: up to the end token where padding is hidden, else all."""
        return self.end + 1 if self.masked else len(self.ids)

    @property
    def last(self) -> int:
        """Position of the last content token; 0 for an empty prompt.

        That is the begin token in CLIP and, for want of one, the end token in T5.
        """
        return max(self.end - 1, 0)

    @property
    def content(self) -> tuple[int, ...]:
        """The ids between begin and end."""
        return self.ids[self.begin : self.end]


class Embedder:
    """Embeds prompts with one text encoder and remembers them as long as it lives.

    A model whose weights cannot change may hold ``embedded_prompts``, which embedders then share.

    Args:
        model: has ``tokenizer`` and ``text_encoder``, under these names with ``suffix`` at the end.
        suffix: ``_2`` or ``_3`` for the further encoders of a pipeline.
        layer: which hidden states the denoiser reads: 0 the final output, -2 those that the last
            layer is given, which is what ``hidden_states[-2]`` is.
        length: tokens that a prompt is padded to; the tokenizer's own length when left out.
        masked: padding is hidden, from the encoder and from what reads the rows.
    """

    pooled: bool = False
    """Whether a prompt is one row; here it is one a token."""

    def __init__(
        self,
        model: Any,
        *,
        suffix: str = "",
        layer: int = 0,
        length: int | None = None,
        masked: bool = False,
    ) -> None:
        self._tokenizer: Any = getattr(model, f"tokenizer{suffix}", None)
        self._encoder: Any = unwrapped(getattr(model, f"text_encoder{suffix}", None))
        self._name = f"text_encoder{suffix}"
        self._layer, self._place = layer, (suffix, layer)
        self._masked = masked
        self._states: dict[Any, Tensor] = getattr(model, "embedded_prompts", {})
        self._tokens: dict[str, TokenisedPrompt] = {}
        if self._tokenizer is None or self._encoder is None:
            raise BadModel(
                f"this pipeline has no tokenizer{suffix} or text_encoder{suffix}; "
                "load a whole pipeline"
            )
        self._length = int(length or self._tokenizer.model_max_length)
        most = getattr(self._encoder.config, "max_position_embeddings", None)
        if most is not None and self._length > most:
            raise BadModel(
                f"tokenizer{suffix} pads prompts to {self._length} tokens and {self._name} reads "
                f"{most}; set model_max_length in its tokenizer_config.json to {most}"
            )

    @property
    def width(self) -> int:
        """The number of values in one token's embedding."""
        return int(self._encoder.config.hidden_size)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row that are of different encoders; here it is one."""
        return (self.width,)

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tokenises one prompt, padded to the encoder's length.

        Raises:
            BadRequest: the prompt is longer than the encoder reads.
        """
        if prompt not in self._tokens:
            self._tokens[prompt] = self._tokenise(prompt)
        return self._tokens[prompt]

    def _tokenise(self, prompt: str) -> TokenisedPrompt:
        length, text = self._length, self._expanded(prompt)
        raw = self._tokenizer(text, truncation=True, max_length=length + 1)["input_ids"]
        if len(raw) > length:
            raise BadRequest(
                f"the prompt '{prompt:.80}' has more tokens than the {length} that the text "
                "encoder reads; shorten it"
            )
        padded = self._tokenizer(text, padding="max_length", max_length=length)["input_ids"]
        if self._tokenizer.eos_token_id not in raw:
            raise BadModel(
                f"the tokenizer ends '{prompt}' without its end token "
                f"{self._tokenizer.eos_token!r}; copy the tokenizer's folder again"
            )
        end = raw.index(self._tokenizer.eos_token_id)
        begin = int(raw[0] == self._tokenizer.bos_token_id)
        return TokenisedPrompt(prompt, tuple(padded), end, begin, self._masked)

    def _expanded(self, prompt: str) -> str:
        """Writes a textual inversion of several vectors out, as the pipelines do."""
        if not any(token.endswith("_1") for token in self._tokenizer.get_added_vocab()):
            return prompt
        from diffusers.loaders import TextualInversionLoaderMixin

        return str(TextualInversionLoaderMixin().maybe_convert_prompt(prompt, self._tokenizer))

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Gives what the denoiser reads, the final hidden states, in float64 on the CPU.

        Args:
            prompts: what is read.
            afresh: encode them by themselves, without looking at or adding to what is remembered.
        """
        size = max(1, TOKENS_PER_PASS // self._length)
        if afresh:
            parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
            return torch.cat([self._encode(list(part)) for part in parts])
        keys = {prompt: (*self._place, prompt) for prompt in prompts}
        missing = [prompt for prompt, key in keys.items() if key not in self._states]
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            for prompt, states in zip(some, self._encode(some), strict=True):
                self._states[keys[prompt]] = states
        return torch.stack([self._states[keys[prompt]] for prompt in prompts])

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells all that decides the rows of prompts, in values that JSON holds."""
        tokens = [[*asdict(self.tokenised(prompt)).values()] for prompt in prompts]
        return [fingerprint(self._encoder), self._layer, self._length, self._masked, tokens]

    def _encode(self, prompts: list[str]) -> Tensor:
        states = self.encoded(prompts)
        if not bool(states.isfinite().all()):
            raise BadModel("the text encoder gives values that are not finite; try float32")
        return states.to("cpu", torch.float64)

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Runs the encoder on prompts; nothing is remembered.

        Args:
            prompts: all of them in one batch.
            encoding: how.

        Returns:
            What the denoiser reads, where the encoder is and in its dtype.

        Raises:
            BadRequest: a prompt is too long, or given embeddings do not fit it.
            BadModel: gradients or embeddings are asked of an encoder that runs from files.
        """
        with self._running(encoding, prompts) as (ids, mask):
            if self._layer == 0:
                states: Tensor = self._encoder(ids, attention_mask=mask)[0]
                return states
            with _capturing(self._encoder, self._layer) as captured:
                self._encoder(ids, attention_mask=mask)
        return captured[0]

    def pooled_rows(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch dim"]:
        """Gives the encoder's pooled output, projected where it projects; as `encoded` does."""
        with self._running(encoding, prompts) as (ids, _):
            output = self._encoder(ids)
        projected = getattr(output, "text_embeds", None)
        pooled: Tensor = output.pooler_output if projected is None else projected
        return pooled

    @contextmanager
    def _running(
        self, encoding: Encoding, prompts: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Hands out token ids and mask, while given embeddings stand in and gradients are set."""
        prefix = encoding.prefix.get(self._name)
        given = encoding.embeddings.get(self._name)
        asked = encoding.gradients or prefix is not None or given is not None
        if asked and hasattr(self._encoder, "stored"):
            raise BadModel(
                f"{self._name} runs from its files, without gradients and embeddings of one's own; "
                "load the whole model"
            )
        tokens = [self.tokenised(prompt) for prompt in prompts]
        beside = 0 if prefix is None else len(prefix)
        ids = torch.tensor([self._with_room(each, beside) for each in tokens])
        ids = ids.to(self._encoder.device)
        mask = None
        if self._masked or getattr(self._encoder.config, "use_attention_mask", False):
            ends = torch.tensor([each.end + beside for each in tokens])
            mask = (torch.arange(ids.shape[1]) <= ends[:, None]).long().to(self._encoder.device)
        with (
            evaluating(self._encoder),
            torch.set_grad_enabled(encoding.gradients),
            _replacing(self._encoder, tokens[0].begin, prefix, given),
        ):
            yield ids, mask

    def _with_room(self, tokens: TokenisedPrompt, count: int) -> list[int]:
        """Gives a prompt's ids with places before its first token, for embeddings of no token."""
        if tokens.end + count >= len(tokens.ids):
            raise BadRequest(
                f"the prompt '{tokens.text}' with {count} embeddings before it is longer than the "
                f"{len(tokens.ids)} tokens that the text encoder reads; shorten either"
            )
        ids = [*tokens.ids[: tokens.begin], *[0] * count, *tokens.ids[tokens.begin :]]
        return ids[: len(tokens.ids)]

    def vocabulary(self) -> tuple[Float[Tensor, "n dim"], dict[int, str]]:
        """Gives the table of input embeddings, and the plain words of three letters or more in it.

        Words are tokens that end a word (CLIP) or begin one (T5); other pieces are left out.
        """
        table = self._encoder.get_input_embeddings().weight.detach().to("cpu", torch.float64)
        return table, plain_words(self._tokenizer.get_vocab())

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds the first and last position of a phrase's tokens in a prompt; its last mention.

        Raises:
            BadRequest: the phrase has no tokens of its own there.
        """
        wanted = self.tokenised(phrase).content
        unknown = {self._tokenizer.unk_token_id} - {self._tokenizer.eos_token_id}
        pieces = zip(wanted, self._tokenizer.convert_ids_to_tokens(list(wanted)), strict=True)
        if all(number in unknown or not piece.strip(BEGINS[0]) for number, piece in pieces):
            raise BadRequest(
                f"the tokenizer of {self._name} has no tokens for '{phrase}', so the model cannot "
                "read it; word the concept as the model knows it"
            )
        ids = self.tokenised(prompt).ids
        for start in reversed(range(self.tokenised(prompt).begin, len(ids) - len(wanted) + 1)):
            if ids[start : start + len(wanted)] == wanted:
                return start, start + len(wanted) - 1
        if found := self._letters(prompt, phrase):
            return found
        raise BadRequest(
            f"the tokens of '{phrase}' are not in the prompt '{prompt}'; word the prompt with that "
            "name, or add the word that it uses as a synonym"
        )

    def _letters(self, prompt: str, phrase: str) -> tuple[int, int] | None:
        """Finds the tokens that hold a phrase's letters, in whatever capitals and pieces.

        T5 tells capitals apart and cuts a word in quotes otherwise than by itself.
        """
        if not self._tokenizer.is_fast:
            return None
        named = re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", prompt, re.IGNORECASE)
        match = max(named, key=lambda each: each.start(), default=None)
        if match is None:
            return None
        told = self._tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        holding = [
            place
            for place, (start, stop) in enumerate(told)
            if start < match.end() and match.start() < stop
        ]
        return (holding[0], holding[-1]) if holding else None


def plain_words(vocabulary: Mapping[str, int]) -> dict[int, str]:
    """Lists the whole words of three letters or more in a vocabulary, by their numbers."""
    whole = {
        number: token.removesuffix(ENDS).lstrip("".join(BEGINS))
        for token, number in vocabulary.items()
        if token.endswith(ENDS) or token.startswith(BEGINS)
    }
    plain = {n: word for n, word in whole.items() if word.isalpha() and word.isascii()}
    return {n: word for n, word in plain.items() if len(word) >= 3}


@contextmanager
def _capturing(encoder: Any, layer: int) -> Iterator[list[Tensor]]:
    """Collects what a layer of a CLIP encoder is given; transformers' own way leaves hooks behind.

    Args:
        encoder: the text encoder, or one that runs from files.
        layer: hidden states by their number from the end; -2 is what the last layer is given.
    """
    network: nn.Module = getattr(encoder, "network", encoder)
    layers = [part for part in network.modules() if type(part).__name__.endswith("EncoderLayer")]
    seen: list[Tensor] = []

    def look(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(positional[0] if positional else named["hidden_states"])

    handle = layers[layer + 1].register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _replacing(
    encoder: Any, begin: int, prefix: Tensor | None, given: Tensor | None
) -> Iterator[None]:
    """Lets embeddings stand in for what an encoder's table gives inside the body.

    Args:
        encoder: the text encoder.
        begin: how many begin tokens come before a prefix.
        prefix: embeddings at the places after them.
        given: embeddings of all places.
    """
    if prefix is None and given is None:
        yield
        return
    table = encoder.get_input_embeddings()
    # T5 holds its table under two names.
    twins = [
        part
        for part in encoder.modules()
        if isinstance(part, nn.Embedding) and part.weight.data_ptr() == table.weight.data_ptr()
    ]

    def replace(_: nn.Module, __: tuple[Any, ...], rows: Tensor) -> Tensor:
        if given is not None:
            if given.shape != rows.shape:
                raise BadRequest(
                    f"embeddings of shape {tuple(given.shape)} are given and the prompts have "
                    f"{tuple(rows.shape)}: batch, tokens, values"
                )
            rows = given.to(rows)
        if prefix is not None:
            wide = prefix.to(rows).expand(len(rows), -1, -1)
            rows = torch.cat([rows[:, :begin], wide, rows[:, begin + len(prefix) :]], dim=1)
        return rows

    handles = [part.register_forward_hook(replace) for part in twins]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
