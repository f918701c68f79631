"""What a family of models says of itself: one class per family, in a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.hosts.components import TEXT_KEYS, unwrapped
from efface.hosts.conditions import Conditions, Encoding
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import TextReader
from efface.memory import moved
from efface.randomness import derive, evaluating

__all__ = [
    "FIRST_FRAMES",
    "PROBE_EDGE",
    "GuidanceKind",
    "Host",
    "ModelNames",
    "WidthRead",
    "class_names",
    "evenly_spaced",
    "probe_noise",
    "shifted_by",
    "width_read",
]

PROBE_EDGE = 16
"""Height and width at most of the latents that probe a denoiser."""


FIRST_FRAMES = "every picture is the first frame of a video of one frame; motion was not looked at"
"""What records say of pictures of families that draw videos."""


class WidthRead(NamedTuple):
    """A weight that reads text, and how many values per row the encoders give it."""

    pattern: str
    """For canonical paths in the denoiser."""
    gives: int
    exactly: bool = True
    """Whether it must read just so many, or may read more."""


class ModelNames(NamedTuple):
    """What the headers of other tools' files call a model."""

    version: str
    """kohya's ``ss_base_model_version``, by which tools sort LoRA files."""
    architecture: str
    """ModelSpec's ``architecture``."""


GuidanceKind: TypeAlias = Literal["free", "distilled", "none"]
"""Classifier-free guidance; a number that a distilled network is told; or nothing at all."""


class Host(ABC):
    """One family of text-to-image models: how it reads prompts and is asked for predictions.

    Args:
        model: a pipeline of the family, or an object with its encoders and the weights that read
            text.
    """

    key: ClassVar[str]
    """The family's name in settings and files."""
    title: ClassVar[str]
    """Its name for people."""
    part: ClassVar[str] = "unet"
    """The denoiser's name in the pipeline."""
    predicts: ClassVar[bool] = True
    """Whether the denoiser can be run on latents; otherwise it is edited by closed forms alone."""
    pictured: ClassVar[str] = ""
    """What a picture that is looked at is, where pipelines draw something else."""
    trains: ClassVar[bool] = False
    """Whether methods that train on its own trajectories were tried on it."""
    guides_in_pairs: ClassVar[bool] = True
    """Whether pipelines ask with the prompt and without it in one pass, and say that they guide."""
    kohya_encoders: ClassVar[Mapping[str, str]] = {}
    """What kohya's LoRA files call the text encoders; empty: that layout has no names for it."""
    tokens_read: ClassVar[Mapping[str, int]] = {}
    """Tokens at most that an encoder is given of a prompt, padding and instruction included; where
    missing, what the encoder itself can read."""
    unread_layers: ClassVar[Mapping[str, int]] = {}
    """How many of a CLIP encoder's last layers the denoiser reads nothing of; where missing, 0."""
    original_names: ClassVar[bool] = False
    """Whether these files name the U-Net's layers as the original code does."""
    original_layers: ClassVar[OriginalNames | None] = None
    """Where a transformer's parameters lie in the code that the family was published with."""
    comfy_layers: ClassVar[bool] = True
    """Whether it is known by which names ComfyUI looks the denoiser's layers up."""
    comfy_own: ClassVar[tuple[str, ...]] = ()
    """Beginnings of layers that it looks up by their original names alone, not by diffusers'."""
    comfy_encoders: ClassVar[Mapping[str, str]] = {}
    """What ComfyUI calls the text encoders."""
    names: ClassVar[ModelNames] = ModelNames("", "")
    """What headers of files call a model of the family; left out, `key` does."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def recognises(cls, model: Any) -> bool:
        """Says whether a model is of this family, by classes' names and configs alone.

        Anything that has the parts and their configs will do, such as a folder that is not loaded.
        """

    @classmethod
    @abstractmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a pipeline of the real classes at toy size, with random weights."""

    @classmethod
    @abstractmethod
    def widths_read(
        cls, tokens: Mapping[str, int], pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """Lists which weights read text, with the values that the encoders give each.

        Args:
            tokens: values per token by encoder; those that a model leaves out are missing.
            pooled: values per prompt by encoder.
        """

    @classmethod  # noqa: B027
    def check_pipeline(cls, kind: str, parts: Collection[str]) -> None:
        """Refuses pipelines of the family of which an edit would not reach all that draws.

        Args:
            kind: the pipeline's class.
            parts: that it has.

        Raises:
            BadModel: with what to do.
        """

    @cached_property
    @abstractmethod
    def readers(self) -> tuple[TextReader, ...]:
        """What reads text, the layers that read tokens first.

        Raises:
            BadModel: the model lacks a layer or an encoder of its family.
        """

    @abstractmethod
    def predict(
        self,
        latents: Float[Tensor, "n c h w"],
        times: Float[Tensor, " n"],
        conditions: Conditions,
    ) -> Float[Tensor, "n c h w"]:
        """Puts samples through the network together, each at its own time.

        Raises:
            BadModel: `predicts` is false.
        """

    def probe(self, prompt: str) -> Tensor:
        """Runs the denoiser once, on a small piece of noise, to see whether its output moves."""
        channels, *edges = self.latent_shape
        times = torch.tensor([500.0], dtype=torch.float64)
        with evaluating(self.network), torch.no_grad():
            noise = self._placed(probe_noise(channels, min(PROBE_EDGE, *edges)))
            return self.predict(noise, moved(times, noise.device), self.encode([prompt]))

    @property
    def file_names(self) -> ModelNames:
        """What headers of files call this very model."""
        return self.names if self.names.version else ModelNames(self.key, self.key)

    @property
    def network(self) -> nn.Module:
        """The denoiser."""
        network: nn.Module = unwrapped(getattr(self.model, self.part))
        return network

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample at the model's own size."""
        config: Any = self.network.config
        edges = config.sample_size
        high, wide = (edges, edges) if isinstance(edges, int) else edges
        return int(config.in_channels), int(high), int(wide)

    @property
    def picture_side(self) -> int | None:
        """Pixels of a side that the pipeline is to be asked for; None: what it draws unasked."""
        return None

    @property
    def guidance_kind(self) -> GuidanceKind:
        """What the pipeline does with a scale of guidance."""
        return "free"

    def guidance_options(self, scale: float, _count: int) -> dict[str, Any]:
        """Gives what the pipeline is told to guide so many prompts away from the empty one."""
        return {"guidance_scale": scale}

    def drawing(self, steps: int) -> dict[str, Any]:  # noqa: ARG002
        """Says what the pipeline is asked for beside prompts when a picture is drawn.

        Args:
            steps: in which it is drawn.
        """
        side = self.picture_side
        return {} if side is None else {"height": side, "width": side}

    def encode(
        self,
        prompts: Sequence[str],
        *,
        gradients: bool = False,
        prefix: Mapping[str, Float[Tensor, "prefix dim"]] | None = None,
        embeddings: Mapping[str, Float[Tensor, "batch tokens dim"]] | None = None,
    ) -> Conditions:
        """Encodes prompts in one batch, as the pipeline does, and remembers nothing.

        Args:
            prompts: what is read.
            gradients: whether they can be differentiated by the encoders' weights, and by what is
                given here.
            prefix: by encoder, such as ``text_encoder``: input embeddings put before each prompt's
                first token.
            embeddings: by encoder: input embeddings of all positions, in place of the tokens' own.

        Raises:
            BadRequest: a prompt is too long, or embeddings do not fit it.
            BadModel: gradients or embeddings are asked of encoders that run from files.
        """
        encoding = Encoding(gradients, prefix or {}, embeddings or {})
        tokens, *pooled = self.readers
        rows = torch.cat([each.encoded(prompts, encoding) for each in tokens.streams], dim=1)
        single = [each.streams[0].encoded(prompts, encoding)[:, 0] for each in pooled]
        return Conditions(*(self._placed(each) for each in (rows, *single)))

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Sets a scheduler of this family to so many steps, as its pipeline does."""
        scheduler.set_timesteps(steps, **options)

    def shift(self, config: Any) -> float:
        """Tells a scheduler how far times are shifted, which grows with the picture's size."""
        return shifted_by(config, self.latent_shape[1] * self.latent_shape[2] / 4)

    def guided(
        self,
        unconditional: Float[Tensor, "n c h w"],
        conditional: Float[Tensor, "n c h w"],
        scale: float,
    ) -> Float[Tensor, "n c h w"]:
        """Guides as the family's pipeline does: classifier-free; some do more."""
        return unconditional + scale * (conditional - unconditional)

    def _placed(self, rows: Tensor) -> Tensor:
        """Moves rows to where the denoiser is."""
        weight = next(self.network.parameters())
        return rows.to(weight.device, weight.dtype)


def shifted_by(config: Any, tokens: float) -> float:
    """Gives the shift of a flow's times for a picture of so many tokens."""
    span = config.max_image_seq_len - config.base_image_seq_len
    share = (tokens - config.base_image_seq_len) / span
    return float(config.base_shift + share * (config.max_shift - config.base_shift))


def evenly_spaced(scheduler: Any, steps: int, **options: Any) -> None:
    """Sets a scheduler to noise levels that are evenly spaced, down to one step's share."""
    sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64)
    scheduler.set_timesteps(sigmas=sigmas.tolist(), **options)


def probe_noise(channels: int, edge: int) -> Tensor:
    """Draws the same noise for every probe of a shape."""
    return torch.randn((1, channels, edge, edge), generator=derive(0, "inspection"))


def width_read(key: str, gives: int, *, exactly: bool = True) -> WidthRead:
    """Says what the layers behind a key of `TEXT_KEYS` are given."""
    return WidthRead(TEXT_KEYS[key].pattern, gives, exactly)


def class_names(network: Any) -> Iterator[str]:
    """Names a network's class as it is and as its config says; old PixArt files say less."""
    network = unwrapped(network)
    config = getattr(network, "config", None)
    yield type(network).__name__
    named = str(getattr(config, "_class_name", ""))
    if named == "Transformer2DModel" and getattr(config, "norm_type", "") == "ada_norm_single":
        named = "PixArtTransformer2DModel"
    yield named
