"""The families of text-to-image models that efface knows, and which of them a model is of."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch

from efface.errors import BadModel, BadRequest
from efface.hosts.auraflow import AuraFlow
from efface.hosts.chroma import Chroma
from efface.hosts.cogview4 import CogView4
from efface.hosts.flux import Flux
from efface.hosts.flux2 import Flux2Klein
from efface.hosts.flux2_dev import Flux2Dev
from efface.hosts.host import Host
from efface.hosts.lumina2 import Lumina2
from efface.hosts.pixart import PixArt
from efface.hosts.qwenimage import QwenImage
from efface.hosts.sana import Sana
from efface.hosts.sana_sprint import SanaSprint
from efface.hosts.sd import StableDiffusion1, StableDiffusion2
from efface.hosts.sd3 import StableDiffusion3
from efface.hosts.sdxl import StableDiffusionXL
from efface.hosts.states import refuse_parallel
from efface.hosts.vision import VisionHost
from efface.hosts.vision_families import VISION, VISION_HOSTS
from efface.hosts.wan import Wan
from efface.hosts.zimage import ZImage

__all__ = [
    "FAMILIES",
    "HOSTS",
    "TRAINABLE",
    "check_pipeline",
    "host_of",
    "layout",
    "refuse_family",
    "tiny_pipeline",
]


def _of_other_packages() -> Iterator[type[Host]]:
    """Loads the families that other packages offer: entry points ``name = package.module``."""
    for point in importlib.metadata.entry_points(group="efface.hosts"):
        for _, found in inspect.getmembers(point.load(), inspect.isclass):
            if issubclass(found, Host) and found.__module__ == point.module:
                yield found


HOSTS: tuple[type[Host], ...] = (
    StableDiffusion1,
    StableDiffusion2,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    PixArt,
    AuraFlow,
    Lumina2,
    Sana,
    SanaSprint,
    QwenImage,
    CogView4,
    ZImage,
    Chroma,
    Flux2Klein,
    Flux2Dev,
    Wan,
    *_of_other_packages(),
)
FAMILIES: dict[str, str] = {host.key: host.title for host in HOSTS}
"""The families by key, with their names for people."""
TRAINABLE: frozenset[str] = frozenset(host.key for host in HOSTS if host.trains)
"""Families whose denoisers are trained on latents of their own trajectories."""


def layout(model: Any) -> str:
    """Names the family of a model: a key of `FAMILIES` or of `VISION`, or ``other``.

    Anything that has the parts and their configs will do, such as a folder that is not loaded.

    Raises:
        BadModel: a part is spread over devices, and so shows no config.
    """
    both: tuple[type[Host] | type[VisionHost], ...] = (*HOSTS, *VISION_HOSTS)
    found = next((host.key for host in both if host.recognises(model)), None)
    if found is None:
        refuse_parallel(model)
    return found or "other"


def host_of(model: Any) -> Host:
    """Gives a model as a host of its family.

    Raises:
        BadModel: it is of none.
    """
    for host in HOSTS:
        if host.recognises(model):
            return host(model)
    refuse_parallel(model)
    raise BadModel(
        f"a {type(model).__name__} is of no family that efface edits; known: "
        f"{', '.join(FAMILIES.values())}"
    )


def check_pipeline(model: Any, kind: str, parts: Collection[str]) -> None:
    """Refuses a folder's pipeline of which an edit would not reach all that draws.

    Args:
        model: has the parts, or what their configs say.
        kind: the pipeline's class.
        parts: names of all that it has.

    Raises:
        BadModel: with what to do.
    """
    for host in HOSTS:
        if host.recognises(model):
            host.check_pipeline(kind, parts)


def refuse_family(
    name: str, families: Collection[str], family: str, *, others: Collection[str] = ()
) -> None:
    """Refuses a family that a method does not edit.

    Args:
        name: of the method.
        families: that it edits.
        family: of the model.
        others: methods that edit it, for the message.

    Raises:
        BadRequest: naming the method, the family, and what it edits.
    """
    if family in families:
        return
    every = FAMILIES | VISION
    known = ", ".join(every[each] for each in every if each in families)
    *first, last = others or [""]
    listed = " and ".join([", ".join(first), last]) if first else last
    hint = f"; {listed} can" if others else ""
    raise BadRequest(
        f"{name} does not edit {every.get(family, 'this kind of model')}{hint}; it edits {known}"
    )


def tiny_pipeline(family: str = "sd1", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Builds a pipeline of real classes at toy size, with random weights, without any file.

    Args:
        family: a key of `FAMILIES`.
        seed: decides every weight; the global random state is not touched.
        dtype: of all networks.
    """
    (host,) = (each for each in HOSTS if each.key == family)
    return host.toy(seed=seed, dtype=dtype)
