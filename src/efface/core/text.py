"""Prompts to embeddings with a cache; where a prompt's words and its end-of-text token are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadModel, BadRequest

__all__ = ["Embedder", "TokenisedPrompt", "evaluating"]


@dataclass(frozen=True)
class TokenisedPrompt:
    """A prompt as the text encoder reads it: begin, content, end, padding."""

    text: str
    ids: tuple[int, ...]
    """As many as the encoder reads; ``ids[0]`` is the begin token."""
    end: int
    """Position of the (first) end-of-text token."""

    @property
    def last(self) -> int:
        """Position of the last content token; 0, the begin token, for an empty prompt."""
        return self.end - 1

    @property
    def content(self) -> tuple[int, ...]:
        """The ids between begin and end."""
        return self.ids[1 : self.end]


class Embedder:
    """Embeds prompts with one model's text encoder and remembers them as long as it lives.

    A model whose weights cannot change may hold ``embedded_prompts``, which embedders then share.
    """

    def __init__(self, model: Any) -> None:
        self._tokenizer: Any = model.tokenizer
        self._encoder: Any = model.text_encoder
        self._states: dict[str, Tensor] = getattr(model, "embedded_prompts", {})
        self._tokens: dict[str, TokenisedPrompt] = {}
        if self._tokenizer is None or self._encoder is None:
            raise BadModel("this pipeline has no tokenizer or text encoder; load a whole pipeline")

    @property
    def width(self) -> int:
        """The number of values in one token's embedding."""
        return int(self._encoder.config.hidden_size)

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tokenises one prompt, padded to the encoder's length.

        Raises:
            BadRequest: the prompt is longer than the encoder reads.
        """
        if prompt not in self._tokens:
            self._tokens[prompt] = self._tokenise(prompt)
        return self._tokens[prompt]

    def _tokenise(self, prompt: str) -> TokenisedPrompt:
        length = int(self._tokenizer.model_max_length)
        raw = self._tokenizer(prompt, truncation=True, max_length=length + 1)["input_ids"]
        if len(raw) > length:
            raise BadRequest(
                f"the prompt '{prompt}' has more tokens than the {length} that the text encoder "
                "reads; shorten it"
            )
        padded = self._tokenizer(prompt, padding="max_length", max_length=length)["input_ids"]
        end = raw.index(self._tokenizer.eos_token_id)
        return TokenisedPrompt(prompt, tuple(padded), end)

    def embedded(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens dim"]:
        """Gives what the denoiser reads, the final hidden states, in float64 on the CPU."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._states]
        for start in range(0, len(missing), 32):
            some = missing[start : start + 32]
            self._states.update(zip(some, self._encode(some), strict=True))
        return torch.stack([self._states[prompt] for prompt in prompts])

    def _encode(self, prompts: list[str]) -> Tensor:
        ids = torch.tensor([self.tokenised(prompt).ids for prompt in prompts])
        mask = None
        if getattr(self._encoder.config, "use_attention_mask", False):
            ends = torch.tensor([self.tokenised(prompt).end for prompt in prompts])
            mask = (torch.arange(ids.shape[1]) <= ends[:, None]).long().to(self._encoder.device)
        with evaluating(self._encoder), torch.no_grad():
            states: Tensor = self._encoder(ids.to(self._encoder.device), attention_mask=mask)[0]
        if not bool(states.isfinite().all()):
            raise BadModel("the text encoder gives values that are not finite; try float32")
        return states.to("cpu", torch.float64)

    def vocabulary(self) -> tuple[Float[Tensor, "n dim"], dict[int, str]]:
        """Gives the table of input embeddings, and the plain words of three letters or more in it.

        Words are tokens that end a word; pieces of words and signs are left out.
        """
        table = self._encoder.get_input_embeddings().weight.detach().to("cpu", torch.float64)
        known = self._tokenizer.get_vocab()
        whole = {number: token for token, number in known.items() if token.endswith("</w>")}
        words = {number: token.removesuffix("</w>") for number, token in whole.items()}
        plain = {n: word for n, word in words.items() if word.isalpha() and word.isascii()}
        return table, {n: word for n, word in plain.items() if len(word) >= 3}

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds the first and last position of a phrase's tokens in a prompt; its last mention.

        Raises:
            BadRequest: the phrase has no tokens of its own there.
        """
        wanted = self.tokenised(phrase).content
        ids = self.tokenised(prompt).ids
        for start in reversed(range(1, len(ids) - len(wanted) + 1)):
            if wanted and ids[start : start + len(wanted)] == wanted:
                return start, start + len(wanted) - 1
        raise BadRequest(f"the tokens of '{phrase}' are not in the prompt '{prompt}'")


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Runs modules in evaluation mode and puts every submodule's mode back."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
