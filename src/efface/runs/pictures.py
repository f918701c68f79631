"""Pictures of the concepts that a run erases: given ones, or ones that the frozen model draws."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.pictures import Fit, latents_of
from efface.errors import BadRequest, MissingInput
from efface.picture_files import pictures_of, read_all
from efface.runs.gradient_runs import GradientRun

__all__ = ["Epochs", "Pictures", "require_pictures"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Clean latents of pictures, and the prompts that each of them may go with."""

    latents: Float[Tensor, "n c h w"]
    owner: Int[Tensor, " n"]
    """Which erasure of the request each picture is of."""
    wording: Int[Tensor, " n"]
    """Which wording each was drawn for; -1 where it was given."""
    source: str
    """Where they come from, in words."""

    def __len__(self) -> int:
        return len(self.latents)

    @classmethod
    def of(cls, run: GradientRun, *, fit: Fit, flip: float) -> Pictures:
        """Reads the request's pictures, or lets the frozen model draw where it has none.

        Raises:
            MissingInput, BadRequest: see `require_pictures`; or a file is not a picture.
        """
        require_pictures(run.request, all_of_them=False)
        return cls._given(run, fit, flip) if pictures_of(run.request) else cls._drawn(run)

    @classmethod
    def _given(cls, run: GradientRun, fit: Fit, flip: float) -> Pictures:
        parts, owners = [], []
        edge = run.denoiser.latent_shape[1:]
        for place, erasure in enumerate(run.request.erasures):
            shown = read_all(erasure.concept.images)
            how: dict[str, Any] = {"fit": fit, "flip": flip, "generator": run.draws["pool"]}
            parts.append(latents_of(run.model, shown, edge, **how))
            owners += [place] * len(shown)
        owner = torch.tensor(owners)
        source = f"learnt from {len(owner)} given pictures"
        latents = torch.cat(parts).to(run.denoiser.device, run.denoiser.dtype)
        return cls(latents, owner, torch.full_like(owner, -1), source)

    @classmethod
    def _drawn(cls, run: GradientRun) -> Pictures:
        with run.denoiser.inference_mode():
            latents, wording = run.drawn(run.prompts)
        source = (
            f"learnt from {len(latents)} pictures that the unedited model drew, as none were given "
            "(--images FOLDER)"
        )
        return cls(latents, run.owners[wording], wording, source)

    def prompts(
        self,
        run: GradientRun,
        which: Int[Tensor, " b"],
        generator: torch.Generator,
        *,
        without: Collection[int] = (),
    ) -> list[str]:
        """Gives each of some pictures a prompt: any wording of its concept, by chance.

        Args:
            run: has the wordings.
            which: of the pictures.
            generator: of the choice.
            without: numbers of wordings that are not taken.
        """
        texts = []
        for owner in self.owner[which].tolist():
            every = (run.owners == owner).nonzero()[:, 0].tolist()
            own = [number for number in every if number not in without]
            chosen = own[int(torch.randint(len(own), (1,), generator=generator))]
            texts.append(run.wordings[chosen].prompt)
        return texts


def require_pictures(request: Any, *, all_of_them: bool) -> None:
    """Refuses a request with pictures of some concepts and none of others.

    Args:
        request: what is erased.
        all_of_them: whether pictures must be given.

    Raises:
        MissingInput: a concept has none.
    """
    without = [one.concept.name for one in request.erasures if not one.concept.images]
    if without and (all_of_them or len(without) < len(request.erasures)):
        raise MissingInput(
            f"there are no pictures of '{without[0]}' to learn from; give 3 to 10 of them with "
            "--images FOLDER, or leave all out with --pictures given_or_drawn, so that the model "
            "draws them"
        )


class Epochs:
    """Visits every picture once an epoch, in an order drawn anew each time.

    Args:
        count: of pictures.
        batch: how many a step takes; the last of an epoch may take fewer.
    """

    def __init__(self, count: int, batch: int) -> None:
        if count < 1:
            raise BadRequest("there is no picture to learn from; give some with --images FOLDER")
        self._count, self._batch = count, batch
        self._left: list[int] = []

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return -(-self._count // self._batch)

    def drawn(self, generator: torch.Generator) -> Int[Tensor, " b"]:
        """Gives the pictures of the next step."""
        if not self._left:
            self._left = torch.randperm(self._count, generator=generator).tolist()
        taken, self._left = self._left[: self._batch], self._left[self._batch :]
        return torch.tensor(taken)

    def state_dict(self) -> dict[str, Any]:
        """Gives what is left of the epoch."""
        return {"left": list(self._left)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes what was left of an epoch."""
        self._left = [int(each) for each in state_dict["left"]]
