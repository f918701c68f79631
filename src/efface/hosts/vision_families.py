"""The kinds of models that read pictures, and from a folder to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from efface.errors import BadModel
from efface.hosts.classifier import Classifier
from efface.hosts.detector import Detector
from efface.hosts.recogniser import Recogniser
from efface.hosts.vision import VisionHost, VisionModel, labels_of
from efface.registry import VISION as BUNDLED
from efface.registry import bundled

if TYPE_CHECKING:
    import torch

__all__ = ["VISION", "VISION_HOSTS", "empty_vision", "kind_of", "load_vision", "vision_host"]

VISION_HOSTS: tuple[type[VisionHost], ...] = (Classifier, Recogniser, Detector)
VISION: dict[str, str] = {host.key: host.title for host in VISION_HOSTS}
"""The kinds by key, with their names for people."""


def vision_host(model: Any) -> VisionHost:
    """Gives a model that reads pictures as a host of its kind.

    Raises:
        BadModel: it is of none.
    """
    for host in VISION_HOSTS:
        if isinstance(model, VisionModel) and host.recognises(model):
            return host(model)
    raise BadModel(
        f"a {type(getattr(model, 'model', model)).__name__} is no model that reads pictures and "
        f"that efface edits; known: {', '.join(_known())}"
    )


def load_vision(
    name_or_folder: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> VisionModel:
    """Loads a model that reads pictures, with its image processor.

    Args:
        name_or_folder: a bundled model, or a folder that ``save_pretrained`` wrote.
        dtype: of the weights; float32 when left out, whatever the files hold.
        device: where to put it; the CPU when left out.

    Raises:
        BadModel: a file is missing or broken, or the class is not one that efface knows.
        MissingInput: there is no such folder.
    """
    import torch

    from efface.hosts.libraries import check_libraries
    from efface.hosts.preprocessing import Preprocessing

    check_libraries()
    name = str(name_or_folder)
    folder = bundled(name).folder(name) if name in BUNDLED else Path(name)
    with torch.random.fork_rng(devices=[]):
        network = _network(folder, torch.float32 if dtype is None else dtype)
    config: Any = network.config
    config._name_or_path = name
    network.eval().requires_grad_(requires_grad=False)
    labels = labels_of(config)
    if len(set(labels)) != len(labels):
        raise BadModel(
            f"{name} gives several classes the same name in id2label of config.json, so that a "
            "name does not say which is meant; rename them there"
        )
    prepare = Preprocessing.from_folder(folder)
    if Detector.recognises(network) and getattr(prepare.processor, "pad_size", None):
        raise BadModel(
            f"{folder} pads pictures to one size, so that boxes are no shares of the picture; take "
            "pad_size out of preprocessor_config.json and set one height and width as size"
        )
    model = VisionModel(network, prepare.of_pictures, labels)
    if device is not None:
        network.to(device)
    return model


def kind_of(name_or_folder: str | Path) -> str:
    """Names the kind of a model that reads pictures, from its config alone: a key of `VISION`.

    Raises:
        BadModel: its class is not one that efface knows, or the folder has no config.
    """
    name = str(name_or_folder)
    folder = Path(bundled(name).folder(name) if name in BUNDLED else name)
    return vision_host(empty_vision(folder)).key


def empty_vision(folder: Path) -> VisionModel:
    """Builds the network of a folder without memory, for counting; it prepares no picture.

    Raises:
        BadModel: the class is not one that efface knows, or the config does not describe one.
    """
    from efface.hosts.folders import empty_network

    network = empty_network(folder, _class(_named(folder)))
    assert network is not None
    return VisionModel(network, _prepares_nothing, labels_of(network.config))


def _prepares_nothing(_: Any) -> Any:
    raise BadModel("this network has no weights and reads no pictures")


def _named(folder: Path) -> str:
    """Names the class of a folder's network, which must be one of the table."""
    from efface.hosts.preprocessing import folder_config

    named = folder_config(folder, "config.json").get("architectures") or ["nothing"]
    if named[0] not in _known():
        raise BadModel(
            f"{folder} holds a {str(named[0])[:80]}, which is none of the models that read "
            f"pictures and that efface edits: {', '.join(_known())}"
        )
    return str(named[0])


def _network(folder: Path, dtype: torch.dtype) -> nn.Module:
    from efface.hosts.libraries import check_configs, library_errors
    from efface.hosts.shards import weight_set

    named = _named(folder)
    check_configs(folder)
    weight_set(folder)
    with library_errors(folder, f"load as a {named}"):
        network: nn.Module
        network, notes = _class(named).from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted(notes["missing_keys"]):
        raise BadModel(
            f"{folder} lacks {len(missing)} weights, {missing[0]} among them, which would be "
            "random; save the model with its head"
        )
    return network


def _class(name: str) -> Any:
    """Gives a class of the table: of transformers, or the recogniser of this package."""
    if name in Recogniser.heads:
        from efface.hosts import cosface

        return getattr(cosface, name)
    import transformers

    return getattr(transformers, name)


def _known() -> list[str]:
    return [name for host in VISION_HOSTS for name in host.heads]
