"""The bundled model: a small latent diffusion model of icons, its vocabulary and its judge."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.concepts import Concept, ErasureRequest

__all__ = [
    "JUDGE",
    "PRESET",
    "keep_concepts",
    "pipeline_folder",
    "plainly_understood",
    "understood",
    "weights_folder",
]

JUDGE = "emoji"
"""Which bundled judge looks at this model's pictures."""
PRESET = "emoji"
"""The presets of methods that were measured on it."""


def weights_folder() -> Path:
    """Where the trained files of the package are."""
    return Path(str(files("efface.bundled") / "weights"))


def pipeline_folder() -> Path:
    """The diffusers folder of the bundled model; plain ``StableDiffusionPipeline`` loads it.

    Raises:
        BadModel: the package was installed without its weights.
    """
    from efface.errors import BadModel

    folder = weights_folder() / "pipeline"
    if not (folder / "model_index.json").exists():
        raise BadModel(
            "the bundled emoji model has no weights in this installation; "
            "reinstall efface, or rebuild them with `make emoji`"
        )
    return folder


def keep_concepts(request: ErasureRequest) -> tuple[Concept, ...]:
    """What a request does not erase, in prompts that no suite evaluates with."""
    from efface.bundled.wordings import keep_set

    return keep_set(request)


def understood(request: ErasureRequest) -> ErasureRequest:
    """Fills a request from the vocabulary: synonyms, prompts, and what to keep.

    Concepts that bring their own prompts, anchors and keep sets that were given, and words the
    vocabulary does not know stay as they are.
    """
    from efface.bundled.wordings import understand

    return understand(request)


def plainly_understood(request: ErasureRequest) -> ErasureRequest:
    """Fills a request from the vocabulary with wordings that name no style, to balance styles.

    What is kept, unless it was given: every other noun, plain and in every style, and the concept
    itself in every style, so that a prompt that asks for a style still gets it.
    """
    from efface.bundled.wordings import plainly

    return plainly(request)
