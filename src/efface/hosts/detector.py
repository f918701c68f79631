"""Object detectors of transformers that answer with a set of queries, each a class and a box."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.detector_toys import toy_detector
from efface.hosts.matching import (
    DetectionLoss,
    Detections,
    DetectionTerms,
    Matched,
    Things,
    assign,
    checked_scenes,
    class_loss,
    naming_losses,
    place_loss,
    probabilities,
)
from efface.hosts.vision import VisionHost, VisionModel

__all__ = ["Detector", "Found"]

_UNSEEN = 0.01
"""Probability below which a detector with a sigmoid for each class does not see one: its prior."""


class Found(NamedTuple):
    """What a detector finds in one picture, the surest first."""

    boxes: Float[Tensor, "k 4"]
    """Centre and size as shares of the picture."""
    classes: Int[Tensor, " k"]
    scores: Float[Tensor, " k"]
    """Probabilities."""


class Detector(VisionHost):
    """A network that answers with queries: the class and box of a thing, or that there is none."""

    key: ClassVar[str] = "detector"
    title: ClassVar[str] = "object detectors"
    heads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "DetrForObjectDetection": ("class_labels_classifier",),
        "YolosForObjectDetection": ("class_labels_classifier",),
        "DeformableDetrForObjectDetection": (
            r"class_embed\.\d+",
            r"model\.decoder\.class_embed\.\d+",
        ),
        "RTDetrForObjectDetection": (
            r"model\.decoder\.class_embed\.\d+",
            r"model\.enc_score_head",
            r"model\.denoising_class_embed",
        ),
    }

    @classmethod
    def toy(
        cls, architecture: str = "YolosForObjectDetection", *, seed: int = 0, classes: int = 6
    ) -> VisionModel:
        """See `VisionHost.toy`."""
        return toy_detector(architecture, seed=seed, classes=classes)

    @property
    def reader(self) -> str:
        """Names the module whose output is the answer's logits; others answer for inner layers."""
        kind, layers = type(self.network).__name__, getattr(self.model.config, "decoder_layers", 1)
        return {
            "DeformableDetrForObjectDetection": f"class_embed.{layers - 1}",
            "RTDetrForObjectDetection": f"model.decoder.class_embed.{layers - 1}",
        }.get(kind, "class_labels_classifier")

    @property
    def terms(self) -> DetectionTerms:
        """Reads from the config how the network was trained.

        Raises:
            BadModel: an RT-DETR with softmax, whose classes are not numbered as others' are.
        """
        kind, config = type(self.network).__name__, self.model.config
        if kind == "RTDetrForObjectDetection":
            return _real_time_terms(config)
        sigmoid = kind == "DeformableDetrForObjectDetection"
        return DetectionTerms(
            naming="focal" if sigmoid else "softmax",
            class_cost=config.class_cost,
            corner_cost=config.bbox_cost,
            overlap_cost=config.giou_cost,
            corner_weight=config.bbox_loss_coefficient,
            overlap_weight=config.giou_loss_coefficient,
            nothing_weight=config.eos_coefficient,
            alpha=config.focal_alpha if sigmoid else 0.25,
        )

    def detect(self, pixels: Float[Tensor, "n 3 h w"]) -> Detections:
        """Gives classes, boxes and features of prepared pictures."""
        with self._read_by(self.reader) as seen:
            answer = self.network(pixel_values=pixels)
        return Detections(answer.logits, answer.pred_boxes, seen[-1])

    def features(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n q dim"]:
        """Gives what the head reads of each query."""
        return self.detect(pixels).features

    def probabilities(self, logits: Float[Tensor, "*n c"]) -> Float[Tensor, "*n classes"]:
        """Gives the probability of each class, "no object" left out."""
        return probabilities(logits, self.terms)

    def match(self, detections: Detections, scenes: Sequence[Things]) -> list[Matched]:
        """Assigns a query to each thing, as in the model's training.

        Raises:
            BadRequest: see `checked_scenes`.
            MeasurementFailed: the answers are not finite.
        """
        checked_scenes(scenes, len(detections.logits), self.classes)
        return assign(detections, scenes, self.terms)

    def losses(
        self,
        detections: Detections,
        scenes: Sequence[Things],
        *,
        matched: Sequence[Matched] | None = None,
        ignored: Collection[int] = (),
    ) -> DetectionLoss:
        """Gives the loss of a batch as the model's training has it, of its last layer.

        Args:
            detections: of the pictures.
            scenes: what is in them; classes that are ignored belong to them too.
            matched: by `match`; found anew when left out.
            ignored: classes whose things are left out of account: neither they nor their places
                have a loss, so that they are not learnt as empty.
        """
        pairs = self.match(detections, scenes) if matched is None else matched
        terms = self.terms
        return DetectionLoss(
            class_loss(detections, scenes, pairs, terms, ignored),
            place_loss(detections, scenes, pairs, terms, ignored),
        )

    def naming_losses(
        self, detections: Detections, scenes: Sequence[Things], matched: Sequence[Matched]
    ) -> Float[Tensor, " things"]:
        """Gives minus the log probability of the class of each matched thing, scene by scene.

        In scenes with at most as many things as queries, that is one number for each thing.
        """
        return naming_losses(detections, scenes, matched, self.terms)

    def largest_loss(self) -> float:
        """Gives the naming loss from which on a thing is not recognised.

        That of a guess among all classes and "no object"; with a sigmoid for each class, that of a
        probability of 0.01, which such detectors have for everything before they learn.
        """
        return math.log(self.classes + 1 if self.terms.naming == "softmax" else 1 / _UNSEEN)

    def found(self, detections: Detections, *, most: int = 100, floor: float = 0.0) -> list[Found]:
        """Lists what is found in each picture.

        With softmax a query has its likeliest class; with sigmoids it may have several.

        Args:
            detections: of the pictures.
            most: at most so many a picture.
            floor: leaves out what has a lower probability.
        """
        chances = self.probabilities(detections.logits.float())
        return [
            self._found(each, boxes, most, floor)
            for each, boxes in zip(chances, detections.boxes, strict=True)
        ]

    def _found(
        self,
        chances: Float[Tensor, "q classes"],
        boxes: Float[Tensor, "q 4"],
        most: int,
        floor: float,
    ) -> Found:
        if self.terms.naming == "softmax":
            scores, classes = chances.max(dim=-1)
            queries = torch.arange(len(scores), device=scores.device)
        else:
            scores = chances.flatten()
            places = torch.arange(len(scores), device=scores.device)
            queries, classes = places // chances.shape[1], places % chances.shape[1]
        order = scores.argsort(descending=True, stable=True)[:most]
        order = order[scores[order] >= floor]
        return Found(boxes[queries[order]], classes[order], scores[order])

    @contextmanager
    def _read_by(self, path: str) -> Iterator[list[Tensor]]:
        """Collects what a module reads, in the order of calls."""
        seen: list[Tensor] = []

        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.append(given[0])

        handle = self.network.get_submodule(path).register_forward_pre_hook(note)
        try:
            yield seen
        finally:
            handle.remove()


def _real_time_terms(config: Any) -> DetectionTerms:
    if not config.use_focal_loss:
        raise BadModel(
            "this RT-DETR has use_focal_loss off in config.json, so its classes are numbered with "
            "one for no object; efface knows those with use_focal_loss on"
        )
    return DetectionTerms(
        naming="varifocal",
        class_cost=config.matcher_class_cost,
        corner_cost=config.matcher_bbox_cost,
        overlap_cost=config.matcher_giou_cost,
        corner_weight=config.weight_loss_bbox,
        overlap_weight=config.weight_loss_giou,
        class_weight=config.weight_loss_vfl,
        alpha=config.focal_loss_alpha,
        gamma=config.focal_loss_gamma,
        cost_alpha=config.matcher_alpha,
        cost_gamma=config.matcher_gamma,
    )
