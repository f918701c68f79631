"""Object detectors of the real classes at toy size, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from efface.hosts.vision import VisionModel, labels_of
from efface.hosts.vision_toys import TOY_VIT, Resized, toy_labels, toy_network

__all__ = ["DETECTOR_SIDE", "toy_detector"]

DETECTOR_SIDE = 32
_QUERIES = 8
_ENCODER: dict[str, Any] = {
    "d_model": 32,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "num_queries": _QUERIES,
}


def toy_detector(architecture: str, *, seed: int, classes: int) -> VisionModel:
    """Builds a detector with eight queries that reads pictures of 32 x 32 pixels."""
    builders: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
        "DetrForObjectDetection": _detr,
        "YolosForObjectDetection": _yolos,
        "DeformableDetrForObjectDetection": _deformable,
        "RTDetrForObjectDetection": _real_time,
    }
    network: Any = toy_network(
        lambda: builders[architecture](toy_labels("thing", classes)), seed=seed
    )
    return VisionModel(network, Resized(DETECTOR_SIDE), labels_of(network.config))


def _yolos(named: dict[str, Any]) -> nn.Module:
    from transformers import YolosConfig, YolosForObjectDetection

    sizes = TOY_VIT | {"image_size": [DETECTOR_SIDE, DETECTOR_SIDE]}
    network: nn.Module = YolosForObjectDetection(
        YolosConfig(**sizes, num_detection_tokens=_QUERIES, **named)
    )
    return network


def _detr(named: dict[str, Any]) -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection

    network: nn.Module = DetrForObjectDetection(
        DetrConfig(
            backbone_config=_backbone(["stage2"]),
            use_timm_backbone=False,
            encoder_layers=2,
            **_ENCODER,
            **named,
        )
    )
    return network


def _deformable(named: dict[str, Any]) -> nn.Module:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    network: nn.Module = DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            backbone_config=_backbone(["stage1", "stage2"]),
            use_timm_backbone=False,
            encoder_layers=2,
            num_feature_levels=2,
            **_ENCODER,
            **named,
        )
    )
    return network


def _real_time(named: dict[str, Any]) -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2"],
    )
    network: nn.Module = RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=backbone,
            encoder_layers=1,
            encoder_hidden_dim=32,
            encoder_in_channels=[8, 16],
            feat_strides=[4, 8],
            encode_proj_layers=[1],
            decoder_in_channels=[32, 32],
            num_feature_levels=2,
            num_denoising=0,
            **_ENCODER,
            **named,
        )
    )
    return network


def _backbone(stages: list[str]) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=stages,
    )
