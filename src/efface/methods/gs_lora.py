"""Continual forgetting by group-sparse low-rank layers (GS-LoRA, CVPR 2024; GS-LoRA++)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efface.contracts import Monitor, Paper, silent
from efface.errors import BadRequest, require_positive
from efface.hosts.components import canonical
from efface.hosts.detector import Detector
from efface.hosts.vision import VisionHost, VisionModel
from efface.runs.forgetting import Batch, ForgettingRun
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.runs.forgetting_scenes import SceneForgettingRun
from efface.runs.prototypes import class_means, prototype_divergence
from efface.training.distilling import above_the_rest, answers_apart, leaving_out, mixed
from efface.training.group_sparsity import Shrinking, group_norms

if TYPE_CHECKING:
    from efface.concepts import ErasureRequest
    from efface.data.scenes import Annotated
    from efface.deltas.adapters import Adapters
    from efface.deltas.patches import Patch
    from efface.deltas.results import ErasureResult
    from efface.hosts.classifier import Classifier
    from efface.hosts.matching import Detections, Matched
    from efface.runs.forgetting_training import ForgettingTraining
    from efface.training.loop import Losses

__all__ = ["GsLora"]

_BELOW_A_GUESS = 2.0
"""How much further than to a guess a detector is pushed: average precision counts order alone, so a
thing that is named more surely than the ground is still found."""


@dataclass(frozen=True, kw_only=True)
class GsLora(ForgettingEraser):
    """Trains low-rank layers in feed-forward networks to lose some classes, a delta a request.

    The loss of pictures that are erased is pushed up to a bound; that of retained ones is held by
    replaying them; and blocks whose layers are not needed are switched off whole, by a group lasso
    that sets in after a warm-up (section 4). The head stays, so that forgetting cannot be faked
    there. With prototypes (GS-LoRA++) features of erased pictures are pushed away from the mean of
    their class and those of retained ones are held at theirs, which carries over to few pictures
    and to classes without any.

    Detectors are our reconstruction, since the paper's code for them was never released: queries
    that are matched to things of erased classes have their naming loss pushed up to a bound, by
    default twice that of a guess, and everything else is held by the detector's own loss, in which
    erased things are left out of account rather than learnt as background. They read scenes, have
    no prototypes, and ``replay`` is a share of all scenes.

    Differs from the paper and its released code:
        ``sparsity="proximal"`` is ours: after every step a block's factors are shrunk together and
        become exactly zero where they are small, and the file leaves them out. The paper's penalty
        (``"penalty"``) makes blocks small, never zero.
        The bound of the forgetting loss is by default what a guess among all classes costs, with
        the margin where the head has one; the released 105 and 110 fit a CosFace head of scale 64.
        Pictures are replayed class by class, the released code draws from all alike.
        Prototypes are of the model as it is when a request comes, as in the released code; the
        paper says the original one's (``prototypes_of``).
        Retained features are held (``prototype_retain``), as the paper writes; the released scripts
        leave that weight at 0.
    """

    name: ClassVar[str] = "gs_lora"
    families: ClassVar[frozenset[str]] = frozenset({"classifier", "recogniser", "detector"})
    paper: ClassVar[Paper] = Paper(
        "Continual Forgetting for Pre-trained Vision Models", "2403.11530", 2024
    )

    rank: int = 8
    """Rank of the layers beside each feed-forward layer."""
    alpha: float = 1.0
    """The layers' product is scaled by alpha over the rank."""
    forget_weight: float = 0.2
    """beta: weight of the bounded forgetting loss."""
    bound: float = 0.0
    """BND: the loss of erased pictures from which on it is not pushed further; 0: that of a guess
    among all classes, with the head's margin."""
    hinge: Literal["batch", "picture"] = "batch"
    """Whether the bound is on the mean loss of a batch, as in the paper, or on each picture's."""
    sparsity: Literal["proximal", "penalty", "none"] = "proximal"
    """How blocks are switched off: shrunk after each step, by the paper's term, or not at all."""
    group_weight: float = 1e-3
    """alpha of the paper: weight of the group lasso."""
    group_warmup: float = 0.2
    """Share of the steps before the group lasso sets in: layers start at zero, and a block that is
    shrunk before it has learnt anything stays off."""
    prototype_forget: float = 0.0
    """Weight of pushing features of erased pictures away from their class's mean (GS-LoRA++)."""
    prototype_bound: float = 18.0
    """Divergence from which on they are not pushed further."""
    prototype_retain: float = 0.0
    """Weight of holding features of retained pictures at their class's mean (GS-LoRA++)."""
    prototypes_of: Literal["request", "original"] = "request"
    """Whose features make the means: the model's as the request finds it, or the unedited one's."""
    distil: float = 0.0
    """Weight of holding what the model as the request finds it answers to retained pictures, of all
    classes that are not erased (ours): of those without pictures, too."""
    distil_mixed: bool = False
    """Whether those are pictures mixed of two retained ones, which lie between the classes."""
    distil_erased: bool = False
    """Whether they are pictures that are erased, too: what is answered to them when the erased
    classes are taken out, which says what unseen classes that look like them look like."""
    temperature: float = 2.0
    """Logits are divided by it before such answers are compared."""
    suppress: float = 0.0
    """Weight of holding the answers for erased classes below those for the others, in every picture
    of a step, retained ones too (ours): from few pictures it carries over to others."""
    suppress_margin: float = 1.0
    """How far below: standard deviations of a picture's logits under their mean."""
    unseen: Literal["compete", "left_out"] = "compete"
    """Whether classes of which there is no picture, though nobody asked to erase them, are among
    those that a retained picture's loss compares. Where they are, as in the released code, every
    step pushes them away; ``left_out`` is ours."""
    optimiser: Literal["adam", "adamw", "adam_l2", "sgd"] = "adamw"
    """Adam; AdamW, where weight_decay pulls the weights; Adam that adds it to the gradient; or
    gradient descent with momentum, which adds it, too."""
    learning_rate: float = 1e-2
    """Step size of the optimiser."""
    weight_decay: float = 0.05
    """Pull of the weights to zero, of all but adam."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the step size changes: not at all, or down to a hundredth along a cosine."""
    batch: int = 48
    """Pictures per step, of each kind that a step takes."""
    epochs: float = 100.0
    """Passes over the pictures; 0: as many steps as ``steps`` says."""
    replay: float = 0.1
    """Share of the pictures of each class that is taken, of both kinds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise BadRequest(f"rank is {self.rank}; give 1 or more")
        for name in ("forget_weight", "bound", "group_weight", "prototype_forget",
                     "prototype_bound", "prototype_retain", "distil", "suppress",
                     "suppress_margin"):  # fmt: skip
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if not (self.forget_weight or self.prototype_forget or self.suppress):
            raise BadRequest("forget_weight, prototype_forget and suppress are all 0, and nothing "
                             "else erases; give one a weight")  # fmt: skip
        require_positive(self, "temperature")
        if (self.distil_mixed or self.distil_erased) and not self.distil:
            raise BadRequest("distil_mixed and distil_erased need a weight of distil, such as 1")
        if not 0 <= self.group_warmup <= 1:
            raise BadRequest(f"group_warmup is {self.group_warmup}; it is a share, of 0 to 1")

    @classmethod
    def presets(cls) -> Mapping[str, GsLora]:
        """Gives the published settings, and those measured for the bundled models."""
        released: dict[str, Any] = {"sparsity": "penalty", "bound": 105.0, "group_warmup": 0.0}
        plus: dict[str, Any] = {"prototype_forget": 0.01, "prototype_bound": 18.0}
        small: dict[str, Any] = {
            "rank": 4,
            "epochs": 0.0,
            "steps": 100,
            "batch": 48,
            "replay": 1.0,
            "learning_rate": 5e-3,
            "alpha": 4.0,
            "forget_weight": 0.3,
            **{"hinge": "picture", "group_weight": 2e-3, "unseen": "left_out"},
        }
        longer: dict[str, Any] = {"rank": 8, "steps": 240, "learning_rate": 1e-2, "bound": 6.5}
        held: dict[str, Any] = {"prototype_forget": 0.05, "prototype_retain": 0.5}
        return {
            "released-faces": cls(**released, group_weight=1e-4),
            "released-faces-plus": cls(**released, group_weight=1e-4, **plus),
            "released-imagenet100": cls(**released, group_weight=1e-4, replay=0.05),
            "icons": cls(**small),
            "icons-plus": cls(**small, **held),
            "icons-few": cls(**small, **held, suppress=10.0, distil=1.0, distil_mixed=True),
            "icons-identities": cls(**small | {"forget_weight": 1.0, "steps": 150}),
            "icons-detector": cls(**small | longer | {"batch": 16, "unseen": "compete"}),
        }

    def trainable(self, host: VisionHost) -> Mapping[str, nn.Parameter]:
        """See `ForgettingEraser.trainable`: the feed-forward networks, by low-rank layers."""
        blocks = host.feed_forward
        return host.weights_of([path for one in blocks for path in (one.first, one.second)])

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Trains the layers and writes down those that are not zero."""
        if Detector.recognises(model):
            scenes = SceneForgettingRun(self, model, request, generator=generator, monitor=monitor)
            return self._trained(scenes, lambda _: self._of_scenes(scenes))
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        return self._trained(run, lambda edit: self._of_pictures(run, edit))

    def _trained(
        self, run: ForgettingTraining[Any, Any], made: Callable[[Adapters], Losses]
    ) -> ErasureResult:
        """Trains the layers of every block with the terms that are made for them."""
        blocks = run.host.feed_forward
        with run.adapting(self.trainable(run.host), rank=self.rank, alpha=self.alpha) as edit:
            groups = [_factors(edit.parameters, (one.first, one.second)) for one in blocks]
            shrinking, terms = self._shrinking(groups, run.steps), made(edit)

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                found = dict(terms(generator))
                if self.sparsity == "penalty" and shrinking.set_in:
                    found["groups"] = self.group_weight * group_norms(groups).sum()
                return found

            run.train(losses, edit.parameters, hooks=shrinking, beside={"steps": shrinking})
            patches = _nonzero(edit.patches())
        return run.result(patches, **_told(patches, blocks, groups))

    def _of_pictures(self, run: ForgettingRun, edit: Adapters) -> Losses:
        """Gives the terms of labelled pictures."""
        bound = self._bound(run.host)
        prototypes = None
        if self.prototype_forget or self.prototype_retain:
            prototypes = class_means(run, original=self.prototypes_of == "original")
        gone = (*run.data.classes, *run.data.earlier)
        if self.suppress and not run.data.classes:
            raise BadRequest(
                "suppress lowers answers for erased classes, and this request erases pictures of "
                "classes that stay; set it to 0"
            )
        unseen = run.without_pictures if self.unseen == "left_out" else ()

        def terms(generator: torch.Generator) -> dict[str, Tensor]:
            forget, retain = run.forget_batch(generator), run.retain_batch(generator)
            logits, features = run.host.both(torch.cat([forget.pixels, retain.pixels]))
            cut = len(forget.labels)
            found = {
                "forget": self.forget_weight
                * self._hinged(run.host.losses(logits[:cut], forget.labels), bound),
                "retain": run.host.losses(leaving_out(logits[cut:], unseen), retain.labels).mean(),
            }
            if prototypes is not None:
                found |= self._held(features, prototypes, forget, retain)
            if self.suppress:
                above = above_the_rest(logits, gone, margin=self.suppress_margin)
                found["suppressed"] = self.suppress * above
            if self.distil:
                both = self._compared(run, edit, (forget, retain), logits, generator)
                apart = answers_apart(*both, temperature=self.temperature, without=gone)
                found["answers"] = self.distil * apart
            return found

        return terms

    def _compared(
        self,
        run: ForgettingRun,
        edit: Adapters,
        batches: tuple[Batch, Batch],
        logits: Float[Tensor, "n classes"],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n classes"]]:
        """Gives the logits that distillation wants, and those that it finds, of its pictures."""
        (forget, retain), cut = batches, len(batches[0].labels)
        pixels, answers = retain.pixels, logits[cut:]
        if self.distil_mixed:
            pixels = mixed(pixels, generator)
            answers = run.host.logits(pixels)
        if self.distil_erased:
            pixels = torch.cat([forget.pixels, pixels])
            answers = torch.cat([logits[:cut], answers])
        with edit.teacher():
            return run.host.logits(pixels), answers

    def _of_scenes(self, run: SceneForgettingRun) -> Losses:
        """Gives the terms of scenes: erased things are pushed, all else is trained without them.

        Raises:
            BadRequest: a term is asked for that scenes do not have.
        """
        for name in ("prototype_forget", "prototype_retain", "distil", "suppress", "unseen"):
            if getattr(self, name) not in (0, "compete"):
                raise BadRequest(
                    f"{name} is for pictures of one class each, and a detector reads scenes; leave "
                    "it out"
                )
        bound = self._bound(run.host)

        def terms(generator: torch.Generator) -> dict[str, Tensor]:
            forget, retain = run.forget_batch(generator), run.retain_batch(generator)
            things = [*forget.things, *retain.things]
            answer = run.host.detect(torch.cat([forget.pixels, retain.pixels]))
            matched = run.host.match(answer, things)
            named = _erased_naming(run.host, answer, things, matched, run.data.classes)
            kept = run.host.losses(answer, things, matched=matched, ignored=run.gone)
            return {
                "forget": self.forget_weight * self._hinged(named, bound),
                "retain": kept.total,
            }

        return terms

    def _bound(self, host: Classifier | Detector) -> float:
        """Gives BND, and warns where no loss of this head comes near it."""
        attainable = host.largest_loss()
        if not self.bound:
            return attainable * (_BELOW_A_GUESS if isinstance(host, Detector) else 1)
        if self.bound > 4 * attainable:
            warnings.warn(
                f"bound is {self.bound:g} and a guess among {host.classes} classes costs "
                f"{attainable:.2f}, so that erased pictures are pushed without an end; set bound "
                "to 0 for what fits the head",
                stacklevel=3,
            )
        return self.bound

    def _hinged(self, losses: Float[Tensor, " n"], bound: float) -> Float[Tensor, ""]:
        """Equation 5: ``ReLU(BND - CE)``."""
        if self.hinge == "batch":
            return functional.relu(bound - losses.mean())
        return functional.relu(bound - losses).mean()

    def _shrinking(self, groups: Sequence[Sequence[nn.Parameter]], steps: int) -> Shrinking:
        amount = self.learning_rate * self.group_weight if self.sparsity == "proximal" else 0.0
        return Shrinking(groups, amount=amount, begins=self.group_warmup * steps)

    def _held(
        self,
        features: Float[Tensor, "n dim"],
        prototypes: Float[Tensor, "classes dim"],
        forget: Batch,
        retain: Batch,
    ) -> dict[str, Tensor]:
        """The prototype terms of GS-LoRA++: ``ReLU(BND - KL)`` of erased, ``KL`` of retained."""
        cut = len(forget.labels)
        own = prototype_divergence(prototypes[forget.labels], features[:cut]).mean()
        other = prototype_divergence(prototypes[retain.labels], features[cut:]).mean()
        found = {}
        if self.prototype_forget:
            pushed = functional.relu(self.prototype_bound - own)
            found["prototypes of erased"] = self.prototype_forget * pushed
        if self.prototype_retain:
            found["prototypes of retained"] = self.prototype_retain * other
        return found


def _erased_naming(
    host: Detector,
    answer: Detections,
    things: Sequence[Annotated],
    matched: Sequence[Matched],
    classes: Sequence[int],
) -> Float[Tensor, " n"]:
    """Gives the naming losses of the queries that stand for things of some classes."""
    own = [each.classes[pair.things] for each, pair in zip(things, matched, strict=True)]
    erased = torch.isin(torch.cat(own), torch.tensor(classes, device=answer.logits.device))
    return host.naming_losses(answer, things, matched)[erased]


def _factors(parameters: Mapping[str, nn.Parameter], paths: Sequence[str]) -> list[nn.Parameter]:
    """Picks the factors beside some layers."""
    keys = [f"model/{canonical(path)}.weight::" for path in paths]
    return [weight for name, weight in parameters.items() if name.startswith(tuple(keys))]


def _nonzero(patches: Mapping[str, Patch]) -> dict[str, Patch]:
    """Leaves out layers whose product is zero."""
    return {
        key: patch
        for key, patch in patches.items()
        if all(bool(tensor.any()) for tensor in vars(patch).values())
    }


def _told(
    patches: Mapping[str, Patch], blocks: Sequence[Any], groups: Sequence[Sequence[Tensor]]
) -> dict[str, Any]:
    """Says how much is trained and which blocks were switched off."""
    off = [
        block.block
        for block, group in zip(blocks, groups, strict=True)
        if not any(bool(weight.any()) for weight in group)
    ]
    trained = sum(weight.numel() for group in groups for weight in group)
    kept = sum(tensor.numel() for patch in patches.values() for tensor in vars(patch).values())
    return {
        "trained_parameters": trained,
        "kept_parameters": kept,
        "blocks_switched_off": off,
        "zero_group_ratio": len(off) / len(blocks),
    }
