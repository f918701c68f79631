"""Words' attention is kept apart, and each word's where it was a step before (A-STAR, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.contracts import Paper
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.guiding.course import Course, GuidedRun
from efface.guiding.latent_guide import AttentionGuide, Reading, WordCourse
from efface.guiding.masks import MASK_LEVELS, MaskRule, binarised, layout_masks

__all__ = ["AStar", "overlap", "retention_loss", "segregation_loss"]

SMALL = 1e-6
"""What a sum of two maps is at least, so that maps of zeros have a ratio."""


@dataclass(frozen=True, kw_only=True)
class AStar(AttentionGuide):
    """Moves latents so that words attend to different pixels, and keep those they had before.

    A reconstruction: the paper has no published code, and does not say the size of a step, the
    threshold of masks, how maps are normalised, or whether masks are of maps before or after an
    update. Equations 2 to 4 are its own; the rest follows Attend-and-Excite, whose protocol it
    uses, or is an option here. Needs gradients of a part of the denoiser, and no guidance.

    Known weaknesses of the equations:
        The overlap of two maps falls when one of them fades, so that a word may be parted from
        another by losing it; ``segregation_norm="sum"`` closes that way. A mask of a bad map is
        kept like any other.
    """

    name: ClassVar[str] = "a_star"
    paper: ClassVar[Paper] = Paper(
        "A-STAR: Test-time Attention Segregation and Retention for Text-to-image Synthesis",
        "2306.14544",
        2023,
    )

    segregation: float = 1.0
    """Weight of the overlap between words, equation 2."""
    retention: float = 1.0
    """Weight of what words lose of their masks, equation 3."""
    segregation_norm: Literal["none", "sum"] = "none"
    """What maps are divided by before overlaps are taken: nothing, or each by its sum."""
    retention_norm: Literal["none", "max"] = "none"
    """What maps are divided by before they are compared with masks: nothing, or each by its peak,
    as a constant."""
    mask: MaskRule = "half"
    """Which pixels of a map are a word's."""
    mask_level: float | None = None
    """Level of that rule; None: half of the peak, one deviation, a fifth of the pixels."""
    mask_from: Literal["before", "after"] = "before"
    """Whether masks are of the maps before or after the update of their step; after costs one more
    part of a pass."""
    layouts: tuple[str, ...] = ()
    """Where words' things must be, in place of masks: ``word=left,top,right,bottom`` in shares of
    the picture, or ``word=mask.png``."""
    rest_below: float | None = None
    """Leaves latents alone at a step where words overlap less than this in sum, and each keeps
    enough of its mask; None: never."""
    rest_above: float = 0.45
    """What is enough: the ratio of equation 3, which is 0.5 where a map is its mask."""
    refine_to: tuple[float, ...] = ()
    """The overlap that no pair of words may pass after refining, one for each of those steps; at
    most 0.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("segregation", "retention"):
            if not getattr(self, name) >= 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; weights are zero or more")
        if len(self.refine_to) != len(self.refine_at):
            raise BadRequest(
                f"refine_at has {len(self.refine_at)} shares and refine_to {len(self.refine_to)} "
                "overlaps; give one for each"
            )
        if any(not 0 <= most < 0.5 for most in self.refine_to):
            raise BadRequest(f"refine_to is {self.refine_to}; overlaps are from 0 to below 0.5")
        if self.mask in ("half", "top") and not 0 < self.level <= 1:
            raise BadRequest(f"mask_level is {self.level}; of {self.mask} it is a share, 0 to 1")

    @property
    def level(self) -> float:
        """The level of the rule for masks."""
        return MASK_LEVELS[self.mask] if self.mask_level is None else self.mask_level

    @property
    def is_off(self) -> bool:
        """Whether latents are never moved."""
        return super().is_off or self.segregation == self.retention == 0

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """``paper``: its equations as they are; ``balanced``: maps of equal weight."""
        return {"paper": cls(), "balanced": cls(segregation_norm="sum", retention_norm="max")}

    def begin(self, run: GuidedRun) -> Course | None:
        """Finds the words, the layers that are read, and the masks of layouts."""
        course = _Parting(self, run)
        return None if self.is_off else course


def overlap(
    one: Float[Tensor, "*batch height width"], other: Float[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """Gives the ratio of equations 2 and 3: ``sum min(M, N) / sum (M + N)``, from 0 to 1/2."""
    shared, both = torch.minimum(one, other), one + other
    return shared.sum(dim=(-2, -1)) / both.sum(dim=(-2, -1)).clamp(min=SMALL)


def segregation_loss(
    maps: Float[Tensor, "n words height width"],
    there: Bool[Tensor, "n words"],
    *,
    norm: Literal["none", "sum"] = "none",
) -> Float[Tensor, " n"]:
    """Sums the overlaps of all pairs of a sample's words, equation 2.

    Args:
        maps: of words.
        there: which of them are words.
        norm: what each map is divided by first.
    """
    return _pairs(maps, there, norm).sum(dim=1)


def _pairs(maps: Tensor, there: Tensor, norm: str) -> Float[Tensor, "n pairs"]:
    """Gives the overlap of each pair of words, 0 where one is missing."""
    if norm == "sum":
        maps = maps / maps.sum(dim=(2, 3), keepdim=True).clamp(min=SMALL)
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1, device=maps.device)
    ratios = overlap(maps[:, first], maps[:, second])
    return ratios.masked_fill(~(there[:, first] & there[:, second]), 0.0)


def retention_loss(
    maps: Float[Tensor, "n words height width"],
    masks: Float[Tensor, "n words height width"],
    known: Bool[Tensor, "n words"],
    *,
    norm: Literal["none", "max"] = "none",
) -> Float[Tensor, " n"]:
    """Sums over a sample's words what each lost of its mask, equation 3.

    Args:
        maps: of words.
        masks: where they were, 0 or 1.
        known: which words have a mask.
        norm: what each map is divided by first.
    """
    return (1 - _kept(maps, masks, norm)).masked_fill(~known, 0.0).sum(dim=1)


def _kept(maps: Tensor, masks: Tensor, norm: str) -> Float[Tensor, "n words"]:
    if norm == "max":
        maps = maps / maps.detach().amax(dim=(2, 3), keepdim=True).clamp(min=SMALL)
    return overlap(maps, masks)


class _Parting(WordCourse):
    """The masks of all samples' words, and the losses that are taken of them."""

    def __init__(self, guide: AStar, run: GuidedRun) -> None:
        super().__init__(guide, run)
        self._settings = guide
        self._begun_at: tuple[int, int] | None = None
        self._start()

    def _start(self) -> None:
        """Begins with the layouts' masks alone, at the size that maps have."""
        size, (height, width) = self.attention.source.size, self.attention.source.latent_size
        scale = int(self.attention.denoiser.host.model.vae_scale_factor)
        given = layout_masks(
            self._settings.layouts, size=size, picture=(scale * height, scale * width)
        )
        named = self.attention.named
        for word in given:
            if not any(word in words for words in named):
                raise BadRequest(
                    f"a layout is given for '{word}', which is not among the words; they are "
                    f"{', '.join([*self._settings.words, *self._settings.among])}"
                )
        there = self.attention.words.there
        self._masks = torch.zeros(*there.shape, *size)
        self._fixed = torch.zeros_like(there)
        for sample, words in enumerate(named):
            for number, word in enumerate(words):
                if word in given:
                    self._masks[sample, number], self._fixed[sample, number] = given[word], True
        self._known = self._fixed.clone()
        self._begun_at = size

    def led(self, inputs: Float[Tensor, "n c h w"], visit: Visit) -> Float[Tensor, "n c h w"]:
        """Moves latents along the gradient of both losses, and takes the masks for the next."""
        if self._begun_at != self.attention.source.size:
            self._start()
        every = torch.arange(len(inputs))
        number = self.target(visit)
        if number is not None:
            inputs = self._refined(inputs, visit, self._settings.refine_to[number])
        reading = self.attention.read(inputs, visit, every)
        seen, moved = reading.maps.detach(), inputs
        if self._settings.guided(visit.index, visit.total):
            moved = self._moved(inputs, reading, visit)
        if self._settings.mask_from == "after":
            seen = self.attention.seen(moved, visit, every)
        self._remember(seen, visit.samples)
        return moved

    def _moved(self, inputs: Tensor, reading: Reading, visit: Visit) -> Tensor:
        """Takes one step with each sample that does not rest."""
        samples = visit.samples
        active = ~self._rests(reading.maps.detach(), samples)
        if not active.any():
            return inputs
        losses = self._losses(reading.maps, samples).masked_fill(~active, 0.0)
        moved = self.step(inputs, reading.gradient(losses), visit)
        return torch.where(active[:, None, None, None], moved, inputs)

    def _refined(self, inputs: Tensor, visit: Visit, allowed: float) -> Tensor:
        """Moves samples until no pair of their words overlaps more than is allowed."""
        inputs, going = inputs.clone(), torch.arange(len(inputs))
        for _ in range(self._settings.refine_steps):
            reading = self.attention.read(inputs[going], visit, going)
            samples = visit.samples[going]
            pairs = self._overlaps(reading.maps.detach(), samples)
            above = (pairs > allowed).any(dim=1).cpu()
            if not above.any():
                break
            slope = reading.gradient(self._losses(reading.maps, samples))
            inputs[going[above]] = self.step(inputs[going], slope, visit)[above]
            going = going[above]
        return inputs

    def _losses(self, maps: Tensor, samples: Tensor) -> Float[Tensor, " n"]:
        """Adds both losses, equation 4; words without masks yet are not asked to keep any."""
        there, masks, known = self._state(maps, samples)
        settings = self._settings
        parted = segregation_loss(maps, there, norm=settings.segregation_norm)
        kept = retention_loss(maps, masks, known, norm=settings.retention_norm)
        return settings.segregation * parted + settings.retention * kept

    def _rests(self, maps: Tensor, samples: Tensor) -> Bool[Tensor, " n"]:
        settings = self._settings
        if settings.rest_below is None:
            return torch.zeros(len(maps), dtype=torch.bool, device=maps.device)
        there, masks, known = self._state(maps, samples)
        apart = self._overlaps(maps, samples).sum(dim=1) < settings.rest_below
        kept = _kept(maps, masks, settings.retention_norm) > settings.rest_above
        return apart & ((kept & known) | ~there).all(dim=1)

    def _overlaps(self, maps: Tensor, samples: Tensor) -> Float[Tensor, "n pairs"]:
        there = self.attention.words.there[samples].to(maps.device)
        return _pairs(maps, there, self._settings.segregation_norm)

    def _state(self, maps: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        held = (self.attention.words.there, self._masks, self._known)
        there, masks, known = (each[samples].to(maps.device) for each in held)
        return there, masks.to(maps.dtype), known

    def _remember(self, maps: Tensor, samples: Tensor) -> None:
        """Keeps where words are now, but for those whose place is given."""
        masks = binarised(maps, self._settings.mask, self._settings.level).float().cpu()
        fixed = self._fixed[samples]
        self._masks[samples] = torch.where(fixed[..., None, None], self._masks[samples], masks)
        self._known[samples] = self.attention.words.there[samples]
