"""The judge of scenes: which nouns are in a picture, how many of each, and where."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efface.bundled import weights_folder
from efface.bundled.scene_wordings import Place, Shown, read
from efface.bundled.vision import Residual
from efface.bundled.vocabulary import NOUNS, STYLES, canonical
from efface.concepts import Concept
from efface.content import content_hash
from efface.contracts import Estimate, JudgeCard
from efface.errors import BadModel, BadRequest, MissingInput

__all__ = [
    "APART",
    "SIDE",
    "SceneJudge",
    "SceneNet",
    "Seen",
    "load_scene_net",
    "relation",
    "save_scene_net",
]

SIDE = 96
"""Pixels of a scene."""
CELLS = 12
"""Places along a side, each of 8 x 8 pixels, in which a thing's centre can be."""
APART = 1 / 3
"""Share of the picture between two centres from which on one is left of the other, or above."""
_SAME = 2.5
"""Places between two centres below which they are one thing seen twice."""
_FAINT = 0.01
"""Probability below which a thing is not looked at."""
_PART = 64


@dataclass(frozen=True)
class Seen:
    """A thing in a scene: its noun, its centre as shares of the picture, and how sure that is."""

    noun: str
    across: float
    down: float
    probability: float


class SceneNet(nn.Module):
    """Pictures in 0..1 to log-odds of every noun's centre in every place, and of every style."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        self.widths = widths
        ins = (3, *widths[:-1])
        shrink = [Residual(a, b, 2) for a, b in zip(ins, widths, strict=True)]
        self.stages = nn.Sequential(*shrink, Residual(widths[-1], widths[-1], 1))
        self.places = nn.Conv2d(widths[-1], len(NOUNS), 1)
        self.look = nn.Linear(2 * widths[-1], len(STYLES))
        nn.init.constant_(self.places.bias, -4.0)  # type: ignore[arg-type]

    def maps(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:
        """Gives features of each place."""
        return self.stages(images * 2 - 1)  # type: ignore[no-any-return]

    def read(self, maps: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
        """Reads features: log-odds of nouns by place, (n, nouns, h, w), and of styles."""
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return self.places(maps), self.look(pooled)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
        """Gives what `read` gives, of pictures."""
        return self.read(self.maps(images))


def save_scene_net(network: SceneNet, path: Path) -> None:
    """Writes one float16 safetensors file with the widths in its header."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(tensors, path, metadata={"widths": ",".join(map(str, network.widths))})


def load_scene_net(path: Path) -> SceneNet:
    """Reads what `save_scene_net` wrote, as float32 and in eval mode.

    Raises:
        BadModel: the file is missing.
    """
    from safetensors import safe_open

    if not path.exists():
        raise BadModel(f"{path.name} is missing from the bundled model; reinstall efface")
    with safe_open(path, framework="pt") as file:
        first, second, third = (int(width) for width in file.metadata()["widths"].split(","))
    with torch.random.fork_rng(devices=[]):  # Layers draw first weights, which the file replaces.
        network = SceneNet((first, second, third))
    network.load_state_dict(load_file(path))
    return network.float().eval().requires_grad_(requires_grad=False)


class SceneJudge:
    """Sees every thing of a scene with its place; pictures of other sizes are resized to 96 x 96.

    It was trained on scenes of real icons and on their reconstructions, with things in them that
    are no noun of the vocabulary; its error rates on held-out scenes are on its card.

    Args:
        weights: of a network in place of the bundled one, for measuring it before it is shipped.
    """

    def __init__(self, weights: Path | None = None) -> None:
        path = weights or weights_folder() / "scene_judge.safetensors"
        self._network = load_scene_net(path)
        self.card = _card(path.with_suffix(".json"))
        self.identity = content_hash(type(self).__qualname__, self._network)
        """A hash of all that decides its answers."""

    def knows(self, concept: Concept) -> bool:
        """Says whether the concept is a noun or style of the vocabulary, or a phrase about a scene.

        Such a phrase is one of `efface.bundled.scene_wordings`: "a cat and an apple", "two apples",
        "a cat left of a moon".
        """
        return canonical(concept.name) is not None or read(concept.name) is not None

    @torch.no_grad()
    def presence(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the probability that each picture shows the noun, or is drawn in the style.

        Of a phrase about a scene: that of its least probable thing; 0 where there is more of a
        thing than the phrase counts, or its first thing is elsewhere.

        Raises:
            BadRequest: the vocabulary has no such concept.
        """
        shown = None if canonical(concept.name) else read(concept.name)
        if shown is not None:
            return self.agreement(images, shown)
        known = self._known(concept)
        nouns, styles = self.probabilities(images)
        if known in NOUNS:
            return nouns[:, list(NOUNS).index(known)]
        return styles[:, list(STYLES).index(known)]

    @torch.no_grad()
    def agreement(self, images: Float[Tensor, "n 3 h w"], shown: Shown) -> Float[Tensor, " n"]:
        """Gives the probability that each picture is of a scene, as `presence` does."""
        scores = self._read(images)[0].sigmoid()
        answers = [_agrees(_peaks(one, _FAINT), shown, self.card.threshold) for one in scores]
        unread = scores.isnan().flatten(1).any(dim=1)
        return torch.tensor(answers).masked_fill(unread, torch.nan)

    def logits(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the log-odds of `presence`, differentiable by the pixels.

        Raises:
            BadRequest: the vocabulary has no such concept.
        """
        known = self._known(concept)
        places, styles = self._read(images)
        if known in NOUNS:
            return places[:, list(NOUNS).index(known)].amax(dim=(1, 2))
        place = list(STYLES).index(known)
        others = torch.cat([styles[:, :place], styles[:, place + 1 :]], dim=1)
        return styles[:, place] - others.logsumexp(dim=1)

    def _known(self, concept: Concept) -> str:
        known = canonical(concept.name)
        if known is None:
            raise BadRequest(
                f"{self.card.name} cannot recognise '{concept.name}'; "
                "`efface list concepts` prints what it knows, or pass another judge"
            )
        return known

    def names(
        self, images: Float[Tensor, "n 3 h w"], like: Concept
    ) -> dict[str, Float[Tensor, " n"]]:
        """Gives each picture's probability of every noun, or of every style if ``like`` is one."""
        nouns, styles = self.probabilities(images)
        if canonical(like.name) in STYLES:
            return {name: styles[:, place] for place, name in enumerate(STYLES)}
        return {name: nouns[:, place] for place, name in enumerate(NOUNS)}

    @torch.no_grad()
    def probabilities(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n nouns"], Float[Tensor, "n styles"]]:
        """Gives a probability for every noun on its own, and a distribution over styles."""
        places, styles = self._read(images)
        return places.amax(dim=(2, 3)).sigmoid(), styles.softmax(dim=1)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Gives mean and maximum over places of the last maps, for distances between pictures."""
        maps = [self._network.maps(part) for part in _sized(images).split(_PART)]
        return torch.cat([torch.cat([m.mean(dim=(2, 3)), m.amax(dim=(2, 3))], 1) for m in maps])

    @torch.no_grad()
    def things(self, images: Float[Tensor, "n 3 h w"]) -> list[tuple[Seen, ...]]:
        """Lists what is in each picture at the card's threshold, most probable first.

        Two nouns are not in one place: of several, the most probable counts.
        """
        scores = self._read(images)[0].sigmoid()
        return [_peaks(each, self.card.threshold) for each in scores]

    def counts(self, images: Float[Tensor, "n 3 h w"]) -> list[Counter[str]]:
        """Counts each noun in each picture."""
        return [Counter(seen.noun for seen in each) for each in self.things(images)]

    def _read(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
        parts = [self._network(part) for part in _sized(images).split(_PART)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def relation(first: Seen, second: Seen) -> Place | None:
    """Says where the first thing is, seen from the second; None where that is not plain."""
    across, down = first.across - second.across, first.down - second.down
    if abs(across) >= APART and abs(across) > 1.5 * abs(down):
        return "left of" if across < 0 else "right of"
    if abs(down) >= APART and abs(down) > 1.5 * abs(across):
        return "above" if down < 0 else "below"
    return None


def _peaks(scores: Float[Tensor, "nouns h w"], threshold: float) -> tuple[Seen, ...]:
    """Takes the most probable place again and again, leaving out what is next to one taken."""
    found: list[tuple[float, float]] = []
    seen: list[Seen] = []
    names, cells = list(NOUNS), scores.shape[-1]
    best, nouns = scores.max(dim=0)
    for place in best.flatten().argsort(descending=True).tolist():
        down, across = divmod(place, cells)
        probability = float(best[down, across])
        if not probability >= threshold:  # not a number is not seen either
            break
        if any(max(abs(down - d), abs(across - a)) < _SAME for d, a in found):
            continue
        found.append((down, across))
        noun = names[int(nouns[down, across])]
        seen.append(Seen(noun, (across + 0.5) / cells, (down + 0.5) / cells, probability))
    return tuple(seen)


def _agrees(seen: tuple[Seen, ...], shown: Shown, threshold: float) -> float:
    """Gives the probability that what is seen is what a phrase means."""
    answers = []
    for noun, count in Counter(shown.nouns).items():
        sure = [each.probability for each in seen if each.noun == noun]
        over = count > 1 and len(sure) > count and sure[count] >= threshold
        answers.append(sure[count - 1] if len(sure) >= count and not over else 0.0)
    if shown.place and min(answers) > 0:
        first, second = (next(s for s in seen if s.noun == noun) for noun in shown.nouns)
        answers.append(1.0 if relation(first, second) == shown.place else 0.0)
    return min(answers)


def _sized(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 96 96"]:
    if images.shape[-2:] == (SIDE, SIDE):
        return images.float()
    return F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)


def _card(path: Path) -> JudgeCard:
    if not path.exists():
        raise MissingInput(
            f"{path.name} is missing beside the judge; run `python emoji/measure_scene_judge.py`"
        )
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return JudgeCard(
        name="emoji-scenes-judge",
        version=str(written["version"]),
        threshold=float(written["threshold"]),
        true_positive_rate=Estimate(**written["true_positive_rate"]),
        false_positive_rate=Estimate(**written["false_positive_rate"]),
        notes=str(written["notes"]),
    )
