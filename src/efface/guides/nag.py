"""Normalised attention guidance: leads away from a text inside cross-attention (NAG, 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efface.contracts import Guide, Paper
from efface.deltas.application import applied_to
from efface.errors import BadModel, BadRequest, require_positive
from efface.guiding.course import Branch, Course, Span, require_span

if TYPE_CHECKING:
    from efface.diffusion.sampling import Visit
    from efface.guiding.course import GuidedRun

__all__ = ["NormalisedAttention", "away"]


@dataclass(frozen=True, kw_only=True)
class NormalisedAttention(Guide):
    """Leads what cross-attention gives away from what it gives for a text.

    In every layer, with ``z`` for the prompt and ``z_n`` for the text, before the output's
    projection: ``z_s = scale z - (scale - 1) z_n``; where its L1 norm exceeds ``clip`` times that
    of ``z`` it is scaled down to that; the layer goes on with ``blend z_s + (1 - blend) z``.

    Costs one evaluation per picture, to see whether it does anything: only cross-attention is
    computed twice, and keys and values of the text once a run. It works without classifier-free
    guidance, and so on distilled models; with it, the empty prompt is left as it is.

    Reconstructed from memory of the paper: equations and the numbers of the preset are recalled.
    Not built for models that read text by joint attention (SD 3, FLUX).
    """

    name: ClassVar[str] = "nag"
    paper: ClassVar[Paper] = Paper(
        "Normalized Attention Guidance: Universal Negative Guidance for Diffusion Models",
        "2505.21179",
        2025,
    )
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})

    text: str = ""
    """What to lead away from; empty: from what the layers give for no text."""
    scale: float = 5.0
    """How far; 1: off."""
    clip: float = 2.5
    """How many times as large, by L1 norm, a token's features may become."""
    blend: float = 0.25
    """Share of the guided features in what the layers give; 0: off."""
    start: float = 0.0
    """Share of the run after which it begins."""
    stop: float = 1.0
    """Share of the run after which it ends."""
    negative_on: Branch = "unedited"
    """Whose keys and values the text has, while a delta is applied: unedited or edited."""

    def __post_init__(self) -> None:
        require_span(self.start, self.stop)
        require_positive(self, "clip")
        if self.scale < 1:
            raise BadRequest(f"scale is {self.scale}; give 1, which is off, or more")
        if not 0 <= self.blend <= 1:
            raise BadRequest(f"blend is {self.blend}; give a share, 0 to 1")

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Gives the paper's numbers, as recalled."""
        return {"paper": cls()}

    def begin(self, run: GuidedRun) -> Course | None:
        """Computes keys and values of the text; it is off at scale 1 or blend 0."""
        if self.scale == 1 or not self.blend:
            return None
        span = run.span(self.name, self.start, self.stop)
        if self.negative_on == "edited" and any(
            record.delta.gate is not None or record.delta.row_maps
            for record in applied_to(run.model)
        ):
            raise BadRequest(
                "nag cannot give a text the keys and values of a delta with a gate or a row map, "
                "which act on prompts in the network; leave negative_on at unedited"
            )
        read = run.read(self.text, self.negative_on)
        with run.base() if not read.edited else ExitStack():
            known = {layer: _keys_and_values(layer, read.conditions.rows[:1]) for layer in _of(run)}
        return _Attending(self, run, span, known)


class _Attending(Course):
    alters_prompt = True

    def __init__(
        self,
        guide: NormalisedAttention,
        run: GuidedRun,
        span: Span,
        known: Mapping[Any, tuple[Tensor, Tensor]],
    ) -> None:
        self._guide, self._span, self._known = guide, span, known
        self._denoiser = run.denoiser

    def acts(self, index: int) -> bool:
        return index in self._span

    @contextmanager
    def within(self, visit: Visit) -> Iterator[None]:
        if not self.acts(visit.index):
            yield
            return
        count = len(visit.latents)
        # The batch is: the empty prompt if there is guidance, the prompts, what other guides read.
        first = 0 if visit.negative is None else count
        places = torch.arange(first + count * (1 + len(visit.further)))
        with ExitStack() as hooked:
            for layer, known in self._known.items():
                for handle in self._hooked(layer, known, places - first, count):
                    hooked.callback(handle.remove)
            yield

    def _hooked(
        self, layer: Any, known: tuple[Tensor, Tensor], places: Tensor, count: int
    ) -> Iterator[Any]:
        """Guides a layer's features where the queries are known and the output's not yet made.

        Args:
            layer: cross-attention.
            known: keys and values of the text.
            places: which of the prompts each sample of the batch is; others are left alone.
            count: of prompts.
        """
        queries: list[Tensor] = []

        def remember(_: nn.Module, __: tuple[Any, ...], query: Tensor) -> None:
            queries[:] = [query]

        def guide(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            features, passing = given[0], places[self._denoiser.passing]
            some = ((passing >= 0) & (passing < count)).nonzero().flatten()
            if not queries:
                raise BadModel("this attention does not ask by to_q, so nag cannot guide it")
            z = features[some]
            z_n = _attended(layer, queries.pop()[some], *known)
            led = away(z, z_n, scale=self._guide.scale, clip=self._guide.clip)
            mixed = self._guide.blend * led + (1 - self._guide.blend) * z
            features = features.clone()
            features[some] = mixed.to(features.dtype)
            return (features, *given[1:])

        yield layer.to_q.register_forward_hook(remember)
        yield layer.to_out[0].register_forward_pre_hook(guide)


def away(
    prompt: Float[Tensor, "n queries dim"],
    text: Float[Tensor, "n queries dim"],
    *,
    scale: float,
    clip: float,
) -> Float[Tensor, "n queries dim"]:
    """Leads features away from those of a text, no token growing beyond ``clip`` in L1 norm."""
    z, z_n = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (prompt, text))
    led = scale * z - (scale - 1) * z_n
    ratio = led.abs().sum(-1, keepdim=True) / z.abs().sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.where(ratio > clip, led * (clip / ratio), led)


def _of(run: GuidedRun) -> list[Any]:
    """Lists the network's cross-attention layers."""
    named = run.denoiser.network.named_modules()
    layers = [module for name, module in named if name.endswith("attn2")]
    if not layers:
        raise BadModel("the network has no cross-attention layers called attn2 for nag to guide")
    return layers


def _keys_and_values(
    layer: Any, rows: Float[Tensor, "1 tokens dim"]
) -> tuple[Float[Tensor, "1 tokens inner"], Float[Tensor, "1 tokens inner"]]:
    """Computes them by the weights as they are, past what stands beside them."""
    keys, values = layer.to_k, layer.to_v
    return (
        functional.linear(rows, keys.weight, keys.bias),
        functional.linear(rows, values.weight, values.bias),
    )


def _attended(
    layer: Any,
    queries: Float[Tensor, "n queries inner"],
    keys: Float[Tensor, "1 tokens inner"],
    values: Float[Tensor, "1 tokens inner"],
) -> Float[Tensor, "n queries inner"]:
    """Gives what queries get of a text, before the output's projection."""

    def heads(rows: Tensor) -> Tensor:
        split: Tensor = rows.unflatten(2, (layer.heads, -1)).transpose(1, 2)
        return split

    count = len(queries)
    keys, values = (heads(each).expand(count, -1, -1, -1) for each in (keys, values))
    found = functional.scaled_dot_product_attention(
        heads(queries), keys, values, scale=float(layer.scale)
    )
    features: Tensor = found.transpose(1, 2).flatten(2)
    return features
