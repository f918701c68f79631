"""What a network predicts while denoising: guided and clean forms, for every kind.

Predictions are noise (epsilon), velocity of a diffusion (v) or velocity of a flow. At a fixed
latent and time all three are affine in each other, so guidance and its negation are the same
formula for each; only clean latents and true targets need to know the kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.errors import BadModel

__all__ = ["NoiseProcess", "PredictionKind", "guided"]

PredictionKind: TypeAlias = Literal["epsilon", "v_prediction", "flow_prediction"]


def guided(
    unconditional: Float[Tensor, "*shape"], conditional: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: 0 gives the unconditional prediction, 1 the conditional one."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True, eq=False)
class NoiseProcess:
    """How clean latents and noise mix over time: ``x_t = signal(t) z + noise(t) n``.

    Args:
        kind: what the network predicts.
        signal: weight of the clean latents at each training timestep, from clean to noise.
        noise: weight of the noise there.
    """

    kind: PredictionKind
    signal: Float[Tensor, " times"]
    noise: Float[Tensor, " times"]

    @classmethod
    def of(cls, scheduler: Any) -> NoiseProcess:
        """Reads the process from a diffusers scheduler.

        Raises:
            BadModel: it predicts clean samples, or is of a kind that is not known here.
        """
        if scheduler.config.get("prediction_type") == "trigflow":
            raise BadModel(
                "this model's latents go along a circle (trigflow), which training and attacks on "
                "latents do not have; closed forms can edit it"
            )
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None:
            shares = torch.linspace(0, 1, int(scheduler.config.num_train_timesteps) + 1)
            return cls("flow_prediction", 1 - shares, shares)
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise BadModel(
                f"the scheduler's prediction_type is '{kind}'; efface trains models that predict "
                "epsilon, v_prediction or the velocity of a flow"
            )
        return cls(kind, alphas.double().sqrt(), (1 - alphas.double()).sqrt())

    def noised(
        self,
        clean: Float[Tensor, "*shape"],
        noise: Float[Tensor, "*shape"],
        times: Float[Tensor, " n"],
    ) -> Float[Tensor, "*shape"]:
        """Mixes clean latents with standard normal noise."""
        signal, share = self._weights(clean, times)
        return signal * clean + share * noise

    def clean(
        self,
        latents: Float[Tensor, "*shape"],
        prediction: Float[Tensor, "*shape"],
        times: Float[Tensor, " n"],
    ) -> Float[Tensor, "*shape"]:
        """Gives the clean latents z that a prediction implies."""
        signal, share = self._weights(latents, times)
        if self.kind == "epsilon":
            return (latents - share * prediction) / signal
        if self.kind == "v_prediction":
            return signal * latents - share * prediction
        return latents - share * prediction

    def truth(
        self,
        clean: Float[Tensor, "*shape"],
        noise: Float[Tensor, "*shape"],
        times: Float[Tensor, " n"],
    ) -> Float[Tensor, "*shape"]:
        """Gives what a perfect network predicts for latents made by `noised`."""
        signal, share = self._weights(clean, times)
        if self.kind == "epsilon":
            return noise
        if self.kind == "v_prediction":
            return signal * noise - share * clean
        return noise - clean

    def _weights(self, like: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Looks both weights up, one a sample; flows may ask between two training timesteps."""
        shape = (-1, *([1] * (like.ndim - 1)))
        if self.kind == "flow_prediction":
            share = times.double().cpu() / (len(self.noise) - 1)
            signal = 1 - share
        else:
            signal, share = self.signal[times.long().cpu()], self.noise[times.long().cpu()]
        return signal.to(like).reshape(shape), share.to(like).reshape(shape)
