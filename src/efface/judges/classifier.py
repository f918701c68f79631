"""Asks an image classifier from a local folder: what share do the concept's labels get?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from efface.concepts import Concept, names
from efface.content import content_hash
from efface.contracts import JudgeCard
from efface.errors import BadRequest
from efface.hosts.libraries import check_configs, library_errors
from efface.hosts.preprocessing import Preprocessing, folder_config
from efface.hosts.shards import weight_set
from efface.metrics.estimates import UNKNOWN

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Classifier"]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Sums a classifier's probability over the labels that mean the concept.

    Labels are found by the concept's ``labels``, else by name or synonym among the comma-separated
    names of the model's ``id2label`` ("tench, Tinca tinca"). Nobody has measured its errors on
    generated pictures: its card says so.

    Raises:
        BadRequest: a threshold outside 0 to 1.
        MissingInput, BadModel: the folder is missing or holds no image classifier.
    """

    folder: Path
    """A saved transformers image classification model with its preprocessor."""
    threshold: float = 0.5
    """Probability from which a picture counts as showing the concept."""
    device: str = "cpu"
    """Where the model runs."""
    _model: Any = field(init=False, repr=False, compare=False)
    _labels: dict[str, int] = field(init=False, repr=False, compare=False)
    _prepare: Preprocessing = field(init=False, repr=False, compare=False)
    _identity: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise BadRequest(f"threshold is {self.threshold}; it must be between 0 and 1")
        folder = Path(self.folder)
        folder_config(folder, "config.json")
        object.__setattr__(self, "_model", _classifier(folder).to(self.device))
        object.__setattr__(self, "_labels", _labels(self._model.config.id2label))
        object.__setattr__(self, "_prepare", Preprocessing.from_folder(folder))
        named = content_hash(
            type(self).__qualname__, self._model, self._prepare.identity, self._labels
        )
        object.__setattr__(self, "_identity", named)

    @property
    def card(self) -> JudgeCard:
        """The judge's identity; its error rates are unknown."""
        return JudgeCard(
            name=f"classifier ({Path(self.folder).name})",
            version="1",
            threshold=self.threshold,
            true_positive_rate=UNKNOWN,
            false_positive_rate=UNKNOWN,
            notes="Error rates on generated pictures were not measured.",
        )

    @property
    def identity(self) -> str:
        """Names everything that decides its answers: weights, labels and preprocessing."""
        return self._identity

    def knows(self, concept: Concept) -> bool:
        """Says whether the model has a label for the concept."""
        return bool(self._places(concept))

    def presence(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the summed softmax of the concept's labels.

        Raises:
            BadRequest: the model has no label for the concept.
        """
        places = self._places(concept)
        if not places:
            raise BadRequest(
                f"the classifier in {self.folder} has no label for '{concept.name}'; "
                "give the label numbers in the concept, or choose another judge"
            )
        pixels = self._prepare(images.to(self.device))
        probabilities: Tensor = self._model(pixel_values=pixels).logits.softmax(dim=-1)
        return probabilities[:, places].sum(dim=-1).clamp(0, 1).cpu()

    def _places(self, concept: Concept) -> list[int]:
        if concept.labels:
            count = self._model.config.num_labels
            return [label for label in concept.labels if 0 <= label < count]
        found = {self._labels.get(name.casefold().strip()) for name in names(concept)}
        return sorted(place for place in found if place is not None)


def _classifier(folder: Path) -> Any:
    from transformers import AutoModelForImageClassification

    check_configs(folder)
    weight_set(folder)
    with library_errors(folder, "load as an image classifier"):
        model = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    return model.eval().requires_grad_(requires_grad=False)


def _labels(names_of: dict[int, str]) -> dict[str, int]:
    """Maps every comma-separated name of every label to its number; the first one wins."""
    places: dict[str, int] = {}
    for number, text in names_of.items():
        for name in text.split(","):
            places.setdefault(name.casefold().strip(), int(number))
    return places
