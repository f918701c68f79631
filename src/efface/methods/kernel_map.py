"""A map of text rows that is not linear, in closed form, for dozens of concepts (ours)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.concepts import wordings
from efface.contracts import Eraser, Monitor, Paper, TextToImage, Work, silent
from efface.deltas.recording import Recording
from efface.deltas.row_maps import RowMap
from efface.errors import BadRequest, require_positive
from efface.hosts.families import FAMILIES, host_of, refuse_family
from efface.text.row_regression import RegressedRows, in_company, paired_prompts, regressed
from efface.text.token_rules import TargetRule, prompts_read

if TYPE_CHECKING:
    from efface.closed_form.kernel_regression import RowSolution
    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.hosts.streams import TextStream

__all__ = ["KernelMap"]


@dataclass(frozen=True, kw_only=True)
class KernelMap(Eraser[TextToImage]):
    """Maps the rows of text that the denoiser reads by kernel ridge regression, not linearly.

    ``f(x) = x + sum_m k(x, z_m) a_m`` with a Gaussian kernel on sampled rows z: a row of an erased
    prompt becomes the row of the prompt without the concept, a row of a kept prompt stays, and
    whatever is far from both stays exactly. One solve on sums over all rows, however many; no
    pictures, no gradients.

    Differs from the paper:
        Rows and targets are UCE's; that the map is not linear is ours. One linear map of the rows,
        which UCE, RECE and others solve for, cannot erase dozens of concepts and hold all others,
        since they compete for the same directions. ETC (arXiv 2604.16481 [recalled]) trains a
        module on the rows for that; this is a regression in closed form (Nystroem's approximation
        of a Gaussian process).
        The map is no change of weights: it stands between text and denoiser as a module that
        whoever runs the pipeline can leave out, as the gates of SPM.
    """

    name: ClassVar[str] = "kernel_map"
    weakened_by = ("raise ridge", "raise keep_scale", "lower length_scale")
    strengthened_by = ("lower ridge", "raise centers", "lower keep_scale")
    paper: ClassVar[Paper] = Paper(
        "Unified Concept Editing in Diffusion Models", "2308.14761", 2024
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(FAMILIES)
    streams: ClassVar[bool] = True

    centers: int = 2500
    """How many rows the map is made of, half of erased prompts and half of kept ones. More erase
    and hold better; time grows with the square."""
    sampling: Literal["random", "farthest"] = "random"
    """How centers are chosen among all rows: by chance, or each the farthest from those before it,
    of four times as many drawn by chance."""
    length_scale: float = 0.3
    """How far a center reaches, as a multiple of the median distance of centers. Higher reaches
    wordings that are further from those erased, and disturbs other concepts more."""
    ridge: float = 1e-6
    """Noise of the regression. Raise it if pictures degrade."""
    keep_scale: float = 3.0
    """Weight of a kept row, where an erased one has 1. Higher holds others better and erases less
    near them."""
    company: int = 8
    """Kept prompts, for each name of an erased thing, into which it is written beside the kept one
    ("a cat and a pistol"), which should act like the kept prompt; 0: none."""
    target: TargetRule = "prompt_without_concept"
    """What a wording becomes: itself with the anchor or nothing in place of the concept
    (prompt_without_concept), itself with the anchor, or the empty prompt without one (anchor), or
    the anchor's name alone (bare_anchor)."""
    always_keep: tuple[str, ...] = ("",)
    """Prompts kept in every request."""

    def __post_init__(self) -> None:
        require_positive(self, "ridge", "keep_scale", "length_scale")
        if self.centers < 2:
            raise BadRequest(f"centers is {self.centers}; give 2 or more")
        if self.company < 0:
            raise BadRequest(f"company is {self.company}; it must not be negative")

    @classmethod
    def presets(cls) -> Mapping[str, KernelMap]:
        """Gives the settings for the bundled model, measured on 1, 25 and 50 nouns at once."""
        return {"emoji": cls()}

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Regresses a map for every stream of rows; seeds choose the centers."""
        host = host_of(model)
        refuse_family(self.name, self.families, host.key)
        recording = Recording(model, generator=generator, monitor=monitor, steps=1)
        maps: dict[str, tuple[RowMap, ...]] = {}
        told: dict[str, Any] = {}
        for reader in host.readers:
            solved = [self.solve(each, request, generator) for each in reader.streams]
            wide = all(weight.dtype == torch.float64 for weight in reader.weights.values())
            dtype = torch.float64 if wide else torch.float32
            maps[reader.key] = tuple(_as(each.map, dtype) for each in solved)
            told[reader.key] = _figures(solved)
        first, *others = told
        recording.step({name: told[first][name] for name in ("residual", "interference")})
        diagnostics = told[first] | {key: told[key] for key in others}
        return recording.result(self, request, {}, diagnostics=diagnostics, row_maps=maps)

    def solve(
        self, stream: TextStream, request: ErasureRequest, generator: torch.Generator
    ) -> RowSolution:
        """Regresses the map of one stream."""
        beside, together = in_company(stream, request, self.company)
        kept = [text for concept in request.keep for text in wordings(concept)]
        rows = RegressedRows(
            stream,
            [*paired_prompts(stream, request, target=self.target), *beside],
            list(dict.fromkeys([*self.always_keep, *kept, *together])),
        )
        spread = self.sampling == "farthest"
        centers = rows.sample(self.centers, spread=spread, generator=generator)
        return regressed(
            rows,
            centers,
            length_scale=self.length_scale,
            keep_scale=self.keep_scale,
            ridge=self.ridge,
        )

    def work(self, request: ErasureRequest) -> Work:
        """Counts the prompts that are encoded."""
        return Work(prompts=prompts_read(request, target=self.target, always=self.always_keep))


def _as(found: RowMap, dtype: torch.dtype) -> RowMap:
    return RowMap(*(tensor.to(dtype) for tensor in vars(found).values()))


def _figures(solved: list[RowSolution]) -> dict[str, float]:
    """Gives the figures of one branch: the largest over its streams, and all its centers."""
    every = [asdict(each.conditioning) | each.figures for each in solved]
    worst = {name: max(one[name] for one in every) for name in every[0]}
    return worst | {"centers": sum(len(each.map.centers) for each in solved)}
