"""Adversarial training of the text encoder against prompts that bring a concept back (2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, squared_errors
from efface.errors import BadModel, BadRequest, require_positive
from efface.hosts.components import canonical
from efface.hosts.text_layers import text_layers
from efface.runs.gradient_eraser import SMALL, GradientEraser, Trainable
from efface.runs.gradient_runs import GradientRun
from efface.text.free_places import Placement, with_free_places
from efface.training.adversary import Search, search
from efface.training.hooks import Plain

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.diffusion.trajectories import Pool
    from efface.hosts.conditions import Conditions
    from efface.training.parameters import Trained

__all__ = ["AdvUnlearn"]

ENCODER = "text_encoder"


@dataclass(frozen=True, kw_only=True)
class AdvUnlearn(GradientEraser):
    """Trains the text encoder to erase under the prompts that would bring the concept back best.

    Two players take turns. The attacker puts free embeddings beside a prompt of the concept and
    moves them until the encoder in training makes the network predict what the original one did.
    The encoder then learns ESD's target ``e_0 - eta (e_c - e_0)`` under those prompts, and what it
    gave for kept ones. The denoiser stays as it is, so the encoder also erases in other models that
    share it.

    Differs from the paper:
        Latents and what the unedited model predicts there do not depend on the encoder in
        training, so they come from pools made once; ``latents="fresh"`` samples anew for every step
        of attacker and encoder, as the released code does, at many times the cost.
        ``fgsm`` and ``pgd`` are what their names say: gradients start from zero at every step, and
        with ``attack_radius`` the result stays in a ball around the start. The released forms,
        which sum gradients up and move one time fewer than they take steps, have names of their
        own.
        ``clean_share`` of the erased latents are read with the prompt itself all along; the
        released code trains on nothing but attacked prompts once the warm-up is over (0).
        ``placements`` may be several, attacked and trained on side by side, and a name is all its
        tokens; the released code counts words, and so cuts longer names.
        The released code tells the network more noise than latents have, by 48 steps on average;
        here times are the sampler's own.
        Kept prompts and the prediction without a prompt are held in the same pass as the erasure
        (the code's mode ``reg``). Fresh ones are drawn with repetition.
    """

    name: ClassVar[str] = "advunlearn"
    paper: ClassVar[Paper] = Paper(
        "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion "
        "Models",
        "2405.15234",
        2024,
    )
    edits: ClassVar[frozenset[str]] = frozenset({ENCODER})
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2"})

    part: Literal["all", "feed_forward", "attention"] = "all"
    """Which part of the encoder's layers is trained."""
    layers: tuple[int, ...] = ()
    """Their numbers from 0, negative ones from the last; none: all layers."""
    final_norm: bool = True
    """Whether the norm after the last layer is trained too."""
    negative_guidance: float = 1.0
    """eta: how far past the unconditional prediction the target goes; 0 maps to it."""
    latents: Literal["base", "fresh"] = "base"
    """Where losses are asked: on pools of trajectories made once, or on trajectories sampled anew
    for every step of both players, so that ``trajectories`` have no effect."""
    attack: Search = "pgd"
    """How embeddings are searched for: one step along the gradient's sign (fgsm), several with
    projection (pgd), or what the released code calls PGD and fast."""
    attack_steps: int = 4
    """Gradients of an attack; fgsm takes one whatever this is."""
    attack_rate: float = 1e-3
    """How far an attack's step moves every value of an embedding."""
    attack_radius: float = 0.0
    """How far a value may move in one attack, of fgsm and pgd, which then begin at a random place
    within; 0: as far as the steps go."""
    attack_tokens: int = 1
    """k: embeddings that are put into a prompt; 0: no attack, which is ESD on the text encoder."""
    attack_init: Literal["random", "latest"] = "random"
    """Where an attack begins: at random tokens of the vocabulary, or where the last one ended. In a
    name's place it begins at that name."""
    attack_every: int = 1
    """Steps of the encoder until the next attack."""
    attack_batch: int = 1
    """Latents per gradient of an attack, shared out among the placements."""
    placements: tuple[Placement, ...] = ("prefix",)
    """Where embeddings go: before the prompt, after it, among its words, in place of the concept's
    name. Several are attacked at once; one that comes twice has two attackers."""
    clean_share: float = 0.0
    """Share of the erased latents that are read with the prompt itself after the warm-up."""
    warm_up: int = 0
    """Steps before the first attack."""

    @classmethod
    def presets(cls) -> Mapping[str, AdvUnlearn]:
        """Gives the released commands' settings, the same on pools, and the bundled model's."""
        released: dict[str, Any] = {
            "wordings": "names",
            "steps": 1000,
            "warm_up": 200,
            "learning_rate": 1e-5,
            "batch": 1,
            "keep_batch": 5,
            "keep_weight": 0.3,
            "attack": "released_pgd",
            "attack_steps": 30,
        }
        return {
            "released-sd14": cls(**released, latents="fresh"),
            "released-sd14-fast": cls(**released | {"attack": "released_fast"}, latents="fresh"),
            "pooled-sd14": cls(
                **released | {"attack": "pgd"}, trajectories=64, keep_trajectories=243
            ),
            "emoji": cls(
                **SMALL | {"keep_weight": 40.0, "keep_unconditional": 0.1},
                attack_rate=0.01,
                attack_init="latest",
                attack_every=2,
                attack_batch=6,
                placements=("prefix", "replace"),
                clean_share=0.5,
            ),
        }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "attack_steps", "attack_rate", "attack_every", "attack_batch")
        for name in ("attack_radius", "attack_tokens", "warm_up"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.clean_share < 1:
            raise BadRequest(
                f"clean_share is {self.clean_share}; it is a share, of 0 to less than 1, or set "
                "attack_tokens to 0 to train on clean prompts alone"
            )
        if not 0 < len(self.placements) <= min(self.attack_batch, self.attacked):
            raise BadRequest(
                f"there are {len(self.placements)} placements, {self.attack_batch} latents in an "
                f"attack and {self.attacked} in a step that read what it found; each placement "
                "needs at least one of both: raise attack_batch or batch, or lower clean_share"
            )

    @property
    def attacked(self) -> int:
        """How many of the erased latents read attacked prompts after the warm-up."""
        return self.batch - round(self.clean_share * self.batch)

    def trainable(self, concepts: int = 1) -> Trainable:  # noqa: ARG002
        """Says that the text encoder is trained."""
        return Trainable(ENCODER)

    def chosen(self, model: Any, concepts: int = 1) -> dict[str, nn.Parameter]:  # noqa: ARG002
        """Lists what is trained, by key."""
        chosen = text_layers(model, self.part, layers=self.layers or None)
        if self.final_norm:
            named = model.text_encoder.named_parameters()
            norm = {path: w for path, w in named if canonical(path).startswith("final_layer_norm.")}
            chosen |= {f"{ENCODER}/{canonical(path)}": weight for path, weight in norm.items()}
        return chosen

    def pools_kept(self) -> bool:
        """Says whether trajectories of kept prompts are sampled before training."""
        return super().pools_kept() and self.latents == "base"

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Samples pools with the unedited model, then lets attacker and encoder take turns."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        attacker = _Attacker(self, run)
        scene = _Scene(self, run)
        with run.training(self.chosen(model)) as edit:
            scene.edit = edit

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                attacker.prepare(scene, generator)
                visits = scene.visits(self.batch, generator)
                read, prediction = attacker.conditions(visits), scene.target(visits)
                erase = Target("erase", 1.0, visits.latents, visits.times, read, prediction)
                return squared_errors(run.denoiser, [erase, *scene.kept(generator)])

            run.train(losses, edit.parameters, hooks=attacker, beside={"attacker": attacker})
            patches = edit.patches()
        return run.result(patches, **attacker.told())


class _Scene:
    """Latents, what the unedited model predicts there, and what the edited one should."""

    def __init__(self, method: AdvUnlearn, run: GradientRun) -> None:
        self.method, self.run = method, run
        self.edit: Trained
        # All that the unedited encoder gives is read before training begins.
        self.prompts, self.anchors, _ = run.prompts, run.anchors, run.empty(1)
        self.away = any(wording.anchor for wording in run.wordings)
        self.pool = run.pool() if method.latents == "base" else None
        every = torch.arange(len(run.kept_wordings))
        fresh = method.latents == "fresh" and method.keep_weight > 0
        self.kept_prompts = run.kept_prompts(every) if fresh else None

    def visits(self, count: int, generator: torch.Generator) -> Pool:
        """Draws latents of the concept with both predictions of the unedited model."""
        if self.pool is not None:
            return self.pool.drawn(count, generator)
        return self.run.fresh(self.edit, count, generator)

    def target(self, visits: Pool) -> Float[Tensor, "n c h w"]:
        """ESD's equation 7; with an anchor a, ``e_a`` takes the place of the first ``e_0``."""
        eta, e_0, e_c = self.method.negative_guidance, visits.unconditional, visits.conditional
        e_a = e_0
        if self.away:
            with torch.no_grad():
                e_a = self.run.denoiser.predict(
                    visits.latents, visits.times, self.anchors[visits.prompt_index]
                )
        return e_a - eta * (e_c - e_0)

    def kept(self, generator: torch.Generator) -> list[Target]:
        """Gives the targets that hold kept prompts, and at some latents none, where they were."""
        method, run = self.method, self.run
        if method.keep_weight == 0:
            return []
        count = method.keep_batch or method.batch
        if self.kept_prompts is None:
            assert run.kept is not None
            visits = run.kept.drawn(count, generator)
        else:
            visits = run.fresh(self.edit, count, generator, self.kept_prompts)
        without = round(method.keep_unconditional * len(visits))
        texts = [run.kept_wordings[place] for place in visits.prompt_index[without:].tolist()]
        prediction = torch.cat([visits.unconditional[:without], visits.conditional[without:]])
        read = run.denoiser.host.encode([*[""] * without, *texts], gradients=True)
        return [Target("keep", method.keep_weight, visits.latents, visits.times, read, prediction)]


@dataclass
class _Attacker(Plain):
    """The free embeddings of all placements, moved from time to time; part of checkpoints."""

    method: AdvUnlearn
    run: GradientRun
    step: int = 0
    last: int = -1
    """The step of the last attack; a step of several batches has one."""
    free: Tensor | None = None
    """One row of embeddings a placement; None before the first attack."""
    gap: list[float] = field(default_factory=list)
    """Squared error of the last attack's first and last gradient: how well the concept returns."""

    def __post_init__(self) -> None:
        encoder = self.run.model.text_encoder
        if getattr(encoder.config, "use_attention_mask", False):
            raise BadModel(
                "the text encoder hides padding (use_attention_mask), so it would not read "
                f"embeddings that are put beside a prompt; {self.method.name} cannot train it"
            )
        table = encoder.get_input_embeddings().weight.detach()
        self.table = table.float()
        text = self.run.denoiser.text
        self.tokens = [text.tokenised(wording.prompt) for wording in self.run.wordings]
        self.rows = [self.table[list(each.ids)] for each in self.tokens]
        self.spans = [
            text.span(wording.prompt, wording.name)
            if wording.name
            else (tokens.begin, max(tokens.begin, tokens.end - 1))
            for wording, tokens in zip(self.run.wordings, self.tokens, strict=True)
        ]
        nothing = self.table[: self.method.attack_tokens]
        for place in range(len(self.tokens)):
            for placement in self.method.placements:
                self._placed(place, nothing, placement)

    def prepare(self, scene: _Scene, generator: torch.Generator) -> None:
        """Attacks, if that is due at this step."""
        method, since = self.method, self.step - self.method.warm_up
        due = since >= 0 and since % method.attack_every == 0 and self.last != self.step
        if method.attack_tokens == 0 or not due:
            return
        self.last = self.step
        count = method.attack_batch
        steps = 1 if method.attack == "fgsm" else method.attack_steps
        visits = scene.visits(steps * count, generator)
        batches: Iterator[Any] = iter(torch.arange(len(visits)).split(count))

        def loss(free: Tensor) -> Tensor:
            """How far the prediction under attack is from the original one, e_c."""
            some = visits[next(batches)]
            read = self._attacked(some.prompt_index, free)
            asked = Target("attack", 1.0, some.latents, some.times, read, some.conditional)
            return squared_errors(self.run.denoiser, [asked])["attack"]

        self.free, losses = search(
            method.attack,
            loss,
            self._start(generator),
            steps=steps,
            rate=method.attack_rate,
            radius=method.attack_radius,
            generator=generator,
        )
        self.gap = [losses[0], losses[-1]] if losses else []

    def conditions(self, visits: Pool) -> Conditions:
        """Encodes the prompts of erased latents: the first ones clean, the others attacked."""
        from efface.hosts.conditions import Conditions

        clean = len(visits) if self.free is None else len(visits) - self.method.attacked
        texts = [self.tokens[place].text for place in visits.prompt_index[:clean].tolist()]
        parts = [self.run.denoiser.host.encode(texts, gradients=True)] if texts else []
        if self.free is not None:
            parts.append(self._attacked(visits.prompt_index[clean:], self.free))
        return Conditions.joined(parts)

    def after_step(self) -> None:
        """Counts the encoder's steps."""
        self.step += 1

    def told(self) -> dict[str, Any]:
        """Says for the diagnostics how near the last attack came to the concept."""
        return {"attack_errors": self.gap} if self.gap else {}

    def state_dict(self) -> dict[str, Any]:
        """Gives what decides the steps to come."""
        return {"step": self.step, "last": self.last, "free": self.free, "gap": self.gap}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self.step, self.last = state_dict["step"], state_dict["last"]
        free, self.gap = state_dict["free"], list(state_dict["gap"])
        self.free = None if free is None else free.to(self.table.device)

    def _start(self, generator: torch.Generator) -> Float[Tensor, "placements k dim"]:
        """Gives where an attack begins."""
        if self.method.attack_init == "latest" and self.free is not None:
            return self.free
        shape = (len(self.method.placements), self.method.attack_tokens)
        drawn = torch.randint(len(self.table), shape, generator=generator)
        start: Tensor = self.table[drawn]
        for row, placement in enumerate(self.method.placements):
            if placement == "replace":
                wording = int(torch.randint(len(self.tokens), (1,), generator=generator))
                first, last = self.spans[wording]
                places = first + torch.arange(shape[1]) % (last - first + 1)
                start[row] = self.rows[wording][places]
        return start

    def _attacked(self, which: Int[Tensor, " n"], free: Tensor) -> Conditions:
        """Encodes wordings with free embeddings, those of the placements in turn."""
        placements = self.method.placements
        rows = [
            self._placed(place, free[nth % len(placements)], placements[nth % len(placements)])
            for nth, place in enumerate(which.tolist())
        ]
        texts = [self.tokens[place].text for place in which.tolist()]
        given = {ENCODER: torch.stack(rows)}
        return self.run.denoiser.host.encode(texts, gradients=True, embeddings=given)

    def _placed(self, place: int, free: Tensor, placement: Placement) -> Tensor:
        tokens, span = self.tokens[place], self.spans[place]
        made: Tensor = with_free_places(self.rows[place], free, tokens, placement, span)
        return made
