"""Rows of text encoders that are language models, with the instruction around each prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efface.errors import BadModel, BadRequest
from efface.hosts.components import unwrapped
from efface.hosts.conditions import PLAIN, Encoding
from efface.hosts.embedding import TokenisedPrompt, plain_words
from efface.hosts.identity import fingerprint
from efface.randomness import evaluating

__all__ = ["BARE", "Frame", "FramedPrompt", "FramedRows"]

TOKENS_PER_PASS = 4096
"""Tokens that go through an encoder together."""


@dataclass(frozen=True)
class Frame:
    """What a pipeline puts around a prompt, and which rows of that its denoiser reads."""

    before: str = ""
    after: str = ""
    dropped: tuple[int, int] = (0, 0)
    """From which token to which one (left out) rows are not read."""
    multiple: int = 1
    """Padding is put before the text until its tokens are a multiple of this, and is read."""
    whole: bool = False
    """Whether the padding up to the longest prompt's length is read, on the tokenizer's side."""

    def around(self, prompt: str) -> str:
        """Writes what the encoder reads."""
        return f"{self.before}{prompt}{self.after}"


BARE = Frame()
"""Nothing around a prompt."""


@dataclass(frozen=True)
class FramedPrompt(TokenisedPrompt):
    """A prompt within its frame: rows before it, its own, and rows after it, all of them read.

    ``end`` is the row after the prompt's last one, whether or not there is one.
    """

    framed: ClassVar[bool] = True

    offsets: tuple[tuple[int, int], ...] = ()
    """Characters of each row's token, counted from the prompt's first one."""

    @property
    def read(self) -> int:
        """All rows, which are fewer than the tokens where the frame drops some."""
        return len(self.offsets)

    def reaching(self, stop: int) -> int:
        """Finds the last row whose token begins before a character; -1: none does."""
        return sum(start < stop for start, _ in self.offsets) - 1


class FramedRows:
    """Rows of a language model, one for each token that the denoiser reads; it is a `TextStream`.

    Rows know of what comes before them alone. Prompts have as many rows as tokens; of several the
    shorter ones are filled up with zeros, which nobody reads.

    Args:
        model: has ``tokenizer`` and ``text_encoder``.
        frame: what stands around prompts.
        length: tokens of a text with its frame at most.
        layers: hidden states that are read, by their number as transformers counts them: -1 the
            final ones, -2 what the last layer is given; several are put side by side.
    """

    pooled = False

    def __init__(
        self, model: Any, frame: Frame, *, length: int, layers: tuple[int, ...] = (-1,)
    ) -> None:
        self._tokenizer: Any = getattr(model, "tokenizer", None)
        self._encoder: Any = unwrapped(getattr(model, "text_encoder", None))
        if self._tokenizer is None or self._encoder is None:
            raise BadModel(
                "this pipeline has no tokenizer or no text_encoder; load a whole pipeline"
            )
        if not self._tokenizer.is_fast:
            raise BadModel(
                f"a {type(self._tokenizer).__name__} does not tell where in a text its tokens are; "
                "save the tokenizer as tokenizer.json, which transformers reads as a fast one"
            )
        self._frame, self._length, self._layers = frame, length, layers
        self._left = frame.whole and self._tokenizer.padding_side == "left"
        self._states: dict[Any, Tensor] = getattr(model, "embedded_prompts", {})
        self._tokens: dict[str, FramedPrompt] = {}

    @property
    def width(self) -> int:
        """Values of all layers that are read."""
        return sum(self.blocks)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The encoder's width, for each layer that is read."""
        width = int(self._encoder.config.get_text_config().hidden_size)
        return (width,) * len(self._layers)

    def vocabulary(self) -> tuple[Float[Tensor, "n dim"], dict[int, str]]:
        """Gives the table of input embeddings, and the plain words in it that follow a space."""
        table = _trunk(self._encoder).get_input_embeddings().weight  # type: ignore[operator]
        return table.detach().to("cpu", torch.float64), plain_words(self._tokenizer.get_vocab())

    def tokenised(self, prompt: str) -> FramedPrompt:
        """Tells where a prompt's tokens are among the rows.

        Raises:
            BadRequest: the prompt is longer than the encoder reads.
        """
        if prompt not in self._tokens:
            self._tokens[prompt] = self._tokenise(prompt)
        return self._tokens[prompt]

    def _tokenise(self, prompt: str) -> FramedPrompt:
        frame, before = self._frame, len(self._frame.before)
        told = self._tokenizer(frame.around(prompt), return_offsets_mapping=True)
        ids, offsets = told["input_ids"], told["offset_mapping"]
        if len(ids) > self._length:
            raise BadRequest(
                f"the prompt '{prompt:.80}' has more tokens than the {self._length} that the text "
                "encoder reads with its instruction; shorten it"
            )
        places = [(start - before, stop - before) for start, stop in offsets]
        places = _specials_before(places, before)
        padding = self._length - len(ids) if self._left else -len(ids) % frame.multiple
        ids = [self._tokenizer.pad_token_id] * padding + ids
        places = [(-before - 1, -before - 1)] * padding + places
        own = [n for n, (start, stop) in enumerate(places) if start < len(prompt) and stop > 0]
        first = next((n for n, (start, _) in enumerate(places) if start >= 0), len(ids))
        begin, end = (own[0], own[-1] + 1) if own else (first, first)
        start, stop = frame.dropped
        read = [*range(min(start, len(ids))), *range(stop, len(ids))]
        gone = min(stop, begin) - min(start, begin)
        beyond = [(len(prompt) + len(frame.after),) * 2] * (self._length - len(ids))
        return FramedPrompt(
            prompt,
            tuple(ids),
            end - gone,
            begin - gone,
            offsets=(*(places[n] for n in read), *(beyond if frame.whole else ())),
        )

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds the first and last row of a phrase in a prompt; its last mention.

        Raises:
            BadRequest: the prompt does not have the phrase.
        """
        named = re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", prompt, re.IGNORECASE)
        match = max(named, key=lambda each: each.start(), default=None)
        if match is None or not phrase.strip():
            raise BadRequest(
                f"'{phrase}' is not in the prompt '{prompt}'; word the prompt with that name, or "
                "add the word that it uses as a synonym"
            )
        rows = self.tokenised(prompt).offsets
        holding = [
            place
            for place, (start, stop) in enumerate(rows)
            if start < match.end() and match.start() < stop
        ]
        return holding[0], holding[-1]

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells all that decides the rows of prompts, in values that JSON holds."""
        tokens = [[*asdict(self.tokenised(prompt)).values()] for prompt in prompts]
        frame = [*asdict(self._frame).values()]
        return [fingerprint(self._encoder), list(self._layers), frame, self._length, tokens]

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Gives rows in float64 on the CPU.

        Args:
            prompts: what is read.
            afresh: encode them by themselves, without looking at or adding to what is remembered.
        """
        known = {} if afresh else self._states
        keys = {prompt: ("framed", self._frame, self._layers, prompt) for prompt in prompts}
        missing = [prompt for prompt, key in keys.items() if key not in known]
        longest = max((len(self.tokenised(prompt).ids) for prompt in missing), default=1)
        size = max(1, TOKENS_PER_PASS // (self._length if self._frame.whole else longest))
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            rows = self.encoded(some).to("cpu", torch.float64)
            if not bool(rows.isfinite().all()):
                raise BadModel("the text encoder gives values that are not finite; try float32")
            for prompt, own in zip(some, rows, strict=True):
                known[keys[prompt]] = own[: self.tokenised(prompt).read]
        found = [known[keys[prompt]] for prompt in prompts]
        most = max(len(rows) for rows in found)
        return torch.stack([functional.pad(rows, (0, 0, 0, most - len(rows))) for rows in found])

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Runs the encoder on prompts in one batch; nothing is remembered.

        Raises:
            BadRequest: a prompt is too long, or embeddings are given, which have no place in the
                frame.
            BadModel: gradients are asked of an encoder that runs from files.
        """
        if encoding.prefix or encoding.embeddings:
            raise BadRequest(
                "this model reads prompts within an instruction, where embeddings of one's own "
                "have no place; use methods and attacks of prompts"
            )
        if encoding.gradients and hasattr(self._encoder, "stored"):
            raise BadModel(
                "text_encoder runs from its files, without gradients; load the whole model"
            )
        tokens = [self.tokenised(prompt) for prompt in prompts]
        longest = max(len(each.ids) for each in tokens)
        total = self._length if self._frame.whole else longest
        padding = self._tokenizer.pad_token_id
        ids = torch.tensor([[*each.ids, *[padding] * (total - len(each.ids))] for each in tokens])
        counts = torch.tensor([len(each.ids) for each in tokens])
        begins = torch.tensor([self._hidden(each) for each in tokens])
        places = torch.arange(total)
        mask = (places < counts[:, None]) & (places >= begins[:, None])
        device = self._encoder.device
        with evaluating(self._encoder), torch.set_grad_enabled(encoding.gradients):
            states = _hidden_states(self._encoder, self._layers, ids.to(device), mask.to(device))
        if not self._frame.whole:
            states = states * mask[:, :, None].to(states)
        start, stop = self._frame.dropped
        return torch.cat([states[:, :start], states[:, stop:]], dim=1)

    def _hidden(self, prompt: FramedPrompt) -> int:
        """Counts the padding before a text, which the encoder does not see."""
        padding = self._tokenizer.pad_token_id
        return next(n for n, each in enumerate(prompt.ids) if each != padding) if self._left else 0


def _specials_before(places: list[tuple[int, int]], before: int) -> list[tuple[int, int]]:
    """Puts begin tokens, whose offsets are those of no character, before the text."""
    found = list(places)
    for place, (start, stop) in enumerate(places):
        if start != stop:
            break
        found[place] = (-before - 1, -before - 1)
    return found


def _trunk(encoder: Any) -> nn.Module:
    """Gives a language model without its head, which scores every word for nobody."""
    network: nn.Module = getattr(encoder, "network", encoder)
    headed = type(network).__name__.endswith(("ForConditionalGeneration", "ForCausalLM"))
    return network.get_submodule("model") if headed else network


def _hidden_states(
    encoder: Any, layers: Sequence[int], ids: Tensor, mask: Tensor
) -> Float[Tensor, "batch tokens dim"]:
    """Runs an encoder and puts what some layers are given, or what comes out, side by side."""
    trunk = _trunk(encoder)
    body = next(part for part in trunk.modules() if _is_body(part))
    stack: Any = body.layers
    with _given([*stack, body.norm]) as seen:
        trunk(ids, attention_mask=mask.long(), use_cache=False)
    count = len(stack)
    numbers = [number if number >= 0 else count + 1 + number for number in layers]
    return torch.cat([seen[number] for number in numbers], dim=-1)


def _is_body(part: nn.Module) -> bool:
    """Says whether a module holds a language model's layers; towers for pictures have others."""
    layers = getattr(part, "layers", None)
    return isinstance(layers, nn.ModuleList) and "DecoderLayer" in type(layers[0]).__name__


@contextmanager
def _given(stack: Sequence[Any]) -> Iterator[dict[int, Tensor]]:
    """Collects what layers are given, and what the norm after them makes, by number."""
    seen: dict[int, Tensor] = {}

    def before(number: int) -> Any:
        def look(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen[number] = positional[0] if positional else named["hidden_states"]

        return look

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        seen[len(stack) - 1] = output

    handles = [
        layer.register_forward_pre_hook(before(number), with_kwargs=True)
        for number, layer in enumerate(stack[:-1])
    ]
    handles.append(stack[-1].register_forward_hook(after))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
