"""The convolutional network under the bundled judge and the CLIP image tower."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efface.errors import BadModel

__all__ = ["ConvNet", "ConvNetShape", "load_network", "save_network"]


@dataclass(frozen=True)
class ConvNetShape:
    """Widths of a ``ConvNet``; one residual block a stage, each at half the side of the last."""

    widths: tuple[int, ...] = (32, 64, 128, 192)
    outputs: int = 128


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm_first = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm_second = nn.BatchNorm2d(outside)
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Gives maps of half the side when the stride is 2."""
        inner = torch.relu(self.norm_first(self.first(x)))
        return torch.relu(self.norm_second(self.second(inner)) + self.skip(x))


class ConvNet(nn.Module):
    """Pictures in 0..1 to feature vectors and a linear read-out of them."""

    def __init__(self, shape: ConvNetShape) -> None:
        super().__init__()
        self.shape = shape
        pairs = zip((3, *shape.widths[:-1]), shape.widths, strict=True)
        self.stages = nn.Sequential(*(_Residual(a, b, 2) for a, b in pairs))
        self.head = nn.Linear(2 * shape.widths[-1], shape.outputs)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Mean and maximum over places of the last stage, d = twice its width."""
        maps = self.stages(images * 2 - 1)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n outputs"]:
        """Reads the features out; pixels are 0 to 1."""
        return self.head(self.features(images))  # type: ignore[no-any-return]


def save_network(network: ConvNet, path: Path) -> None:
    """Writes one float16 safetensors file with the shape in its header."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    shape = asdict(network.shape)
    header = {"outputs": str(shape["outputs"]), "widths": ",".join(map(str, shape["widths"]))}
    save_file(tensors, path, metadata=header)


def load_network(path: Path) -> ConvNet:
    """Reads what ``save_network`` wrote, as float32 and in eval mode.

    Raises:
        BadModel: the file is missing.
    """
    from safetensors import safe_open

    if not path.exists():
        raise BadModel(f"{path.name} is missing from the bundled model; reinstall efface")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    widths = tuple(int(width) for width in header["widths"].split(","))
    with torch.random.fork_rng(devices=[]):  # Layers draw first weights, which the file replaces.
        network = ConvNet(ConvNetShape(widths, int(header["outputs"])))
    network.load_state_dict(load_file(path))
    return network.float().eval().requires_grad_(requires_grad=False)
