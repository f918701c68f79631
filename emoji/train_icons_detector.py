"""Trains the bundled detector of sixteen things in scenes of icons.

    python emoji/train_icons_detector.py [--steps N] [--until STEP]

A small RT-DETR, from random weights, with transformers' own loss: auxiliary losses and denoising.
Scenes are those that the package can make again (efface.bundled.icon_scenes), mirrored at random.
Writes src/efface/bundled/weights/icons-detector in float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
)

from efface.bundled import weights_folder
from efface.bundled.icon_scenes import SIDE, IconScenes, scenes
from efface.data.scenes import Annotated
from efface.evaluation.detection import DetectedBoxes, TrueBoxes, score_detections
from efface.hosts.detector import Detector
from efface.hosts.vision import VisionModel
from fetch import WORK
from training import Schedule, train

NAME = "icons-detector"
BATCH = 16
QUERIES = 20
WIDTH = 64


def network(names: tuple[str, ...]) -> RTDetrForObjectDetection:
    """The untrained network."""
    stages = [24, 64, 128]
    backbone = RTDetrResNetConfig(
        embedding_size=24,
        hidden_sizes=stages,
        depths=[1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3"],
    )
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=backbone,
            freeze_backbone_batch_norms=False,
            encoder_layers=1,
            encoder_hidden_dim=WIDTH,
            encoder_in_channels=stages[1:],
            encoder_ffn_dim=2 * WIDTH,
            encoder_attention_heads=4,
            feat_strides=[8, 16],
            encode_proj_layers=[1],
            hidden_expansion=0.5,
            d_model=WIDTH,
            decoder_in_channels=[WIDTH, WIDTH],
            decoder_ffn_dim=2 * WIDTH,
            decoder_layers=2,
            decoder_attention_heads=4,
            num_feature_levels=2,
            num_queries=QUERIES,
            num_denoising=10,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )


def levels(pictures: IconScenes) -> Tensor:
    """All scenes as uint8."""
    drawn = (pictures.scenes([number])[0].pixels for number in range(len(pictures)))
    return torch.stack([(pixels * 255).round().byte() for pixels in drawn])


def batch_of(
    pixels: Tensor, things: tuple[Annotated, ...], generator: torch.Generator
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Deals scenes, half of them mirrored, with what transformers calls labels."""
    which = torch.randint(len(pixels), (BATCH,), generator=generator)
    mirrored = torch.rand(BATCH, generator=generator) < 0.5
    read = pixels[which].float() / 255
    read = torch.where(mirrored[:, None, None, None], read.flip(-1), read)
    labels = []
    for place, turned in zip(which.tolist(), mirrored.tolist(), strict=True):
        boxes = things[place].boxes.clone()
        if turned:
            boxes[:, 0] = 1 - boxes[:, 0]
        labels.append({"class_labels": things[place].classes, "boxes": boxes})
    return read, labels


@torch.no_grad()
def renormed(model: nn.Module, pixels: Tensor, count: int = 60) -> None:
    """Gives the averaged weights batch statistics of their own."""
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for each in norms:
        each.reset_running_stats()
        each.momentum = None
        each.train()
    for start in range(count):
        model(pixel_values=pixels[start * 32 : (start + 1) * 32].float() / 255)
    model.eval()


@torch.no_grad()
def average_precision(model: Any, pictures: IconScenes, pixels: Tensor) -> dict[str, float]:
    """AP50 of each class."""
    host = Detector(VisionModel(model, torch.stack, pictures.names))
    found = []
    for part in pixels.split(50):
        found += host.found(host.detect(part.float() / 255))
    detected = [DetectedBoxes(each.boxes, each.scores, each.classes) for each in found]
    true = [TrueBoxes(each.boxes, each.classes) for each in pictures.things]
    scores = score_detections(detected, true, classes=len(pictures.names))
    return {name: scores.ap50(number) for number, name in enumerate(pictures.names)}


def main() -> None:
    reader = argparse.ArgumentParser()
    reader.add_argument("--steps", type=int, default=1500)
    reader.add_argument("--until", type=int)
    reader.add_argument("--seed", type=int, default=13)
    reader.add_argument("--rate", type=float, default=1e-3)
    given = reader.parse_args()
    pictures, held_out = scenes("train"), scenes("test")
    pixels, things = levels(pictures), pictures.things
    torch.manual_seed(given.seed)
    model = network(pictures.names)
    weights = sum(each.numel() for each in model.parameters())
    print(json.dumps({"parameters": weights}), flush=True)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        read, labels = batch_of(pixels, things, generator)
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # noise of boxes
        answer = model(pixel_values=read, labels=labels)
        parts = answer.loss_dict
        return answer.loss, {
            name.removeprefix("loss_"): float(parts[name])
            for name in ("loss_vfl", "loss_bbox", "loss_giou")
        }

    folder = WORK / "icons_detector"
    model.train()
    average = train(
        model,
        loss,
        folder=folder,
        schedule=Schedule(steps=given.steps, peak=given.rate, warmup=100, flat=0.5, floor=0.02),
        seed=given.seed,
        averaging=0.995,
        weight_decay=1e-4,
        betas=(0.9, 0.999),
        every=50,
        until=given.until,
    )
    renormed(average, pixels)
    found = average_precision(average.eval(), held_out, levels(held_out))
    print("test AP50", sum(found.values()) / len(found), found, flush=True)
    out = weights_folder() / NAME
    shutil.rmtree(out, ignore_errors=True)
    average.half().save_pretrained(out)
    RTDetrImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_normalize=False, do_pad=False
    ).save_pretrained(out)
    log = Path(__file__).parent / "logs" / f"{NAME}.jsonl"
    log.write_bytes((folder / "log.jsonl").read_bytes())


if __name__ == "__main__":
    main()
