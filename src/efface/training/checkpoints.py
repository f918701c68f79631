"""Checkpoints of training: written while it runs, and read to go on bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from efface.errors import BadRequest
from efface.files import parse_json, write_atomically

__all__ = ["FILE", "Checkpointing", "Keeper", "Stateful", "identity_of"]

FORMAT = 1
FILE = "checkpoint.safetensors"
MAY_CHANGE = ("steps", "learning_rate", "clip", "precision", "recompute")
"""Settings that a resumed run may have changed: they decide how to go on, not what was done."""


@runtime_checkable
class Stateful(Protocol):
    """Modules and optimisers: what can be written down and read back."""

    def state_dict(self) -> dict[str, Any]:
        """Gives the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes the state."""


@dataclass(frozen=True)
class Checkpointing:
    """Where checkpoints go, how often, and whether to start from one."""

    folder: Path
    identity: str
    """Of everything that decides the run, see `identity_of`."""
    every: int = 25
    """Steps between two checkpoints; the first ones come after 1, 2, 4 and so on."""
    resume: bool = False
    """Whether to start from the checkpoint in the folder."""

    def due(self, step: int) -> bool:
        """Says whether a checkpoint is written after so many steps."""
        early = 0 < step < self.every and step.bit_count() == 1
        return early or (step > 0 and step % self.every == 0)

    @property
    def file(self) -> Path:
        """The file that holds the newest checkpoint."""
        return self.folder / FILE

    def require_free(self) -> None:
        """Refuses to overwrite what an interrupted run left.

        Raises:
            BadRequest: there is a checkpoint, and the run does not start from it.
        """
        if not self.resume and self.file.exists():
            raise BadRequest(
                f"an interrupted run left {self.file}: go on from it with --resume, or delete it "
                "to begin anew"
            )


class Keeper:
    """Writes and reads the checkpoints of one training run; without a place it does nothing."""

    def __init__(
        self,
        place: Checkpointing | None,
        parameters: Mapping[str, nn.Parameter],
        beside: dict[str, Stateful],
    ) -> None:
        if place is not None:
            place.require_free()
        self._place = place
        self._parameters = parameters
        self._beside = beside
        self._generator = torch.Generator().get_state()
        self._before: dict[str, Any] = {}

    def begin(self, loop: Any) -> None:
        """Remembers what a step changes before it comes to the weights."""
        if self._place is not None:
            self._generator = loop.generator.get_state()
            self._before = {
                name: copy.deepcopy(part.state_dict()) for name, part in self._beside.items()
            }

    def keep(self, loop: Any) -> None:
        """Writes after the steps that are due, once the next loss is known to be finite."""
        if self._place is not None and self._place.due(loop.step):
            self._write(loop)

    def leave(self, loop: Any) -> None:
        """Writes the last whole step of an interrupted run, unless its weights are half changed."""
        if self._place is not None and loop.step > 0 and not loop.moving:
            self._write(loop)

    @property
    def remainder(self) -> str:
        """Says what is left of a run that failed."""
        if self._place is None:
            return ""
        if not self._place.file.exists():
            return "; nothing is left to resume, as no step before that had a finite loss after it"
        return f"; the last good state is in {self._place.file}, and --resume goes on from it"

    def done(self) -> None:
        """Deletes the checkpoint of a finished run."""
        if self._place is not None:
            self._place.file.unlink(missing_ok=True)
            if self._place.folder.is_dir() and not any(self._place.folder.iterdir()):
                self._place.folder.rmdir()

    def resume(self, loop: Any) -> None:
        """Puts the loop where the checkpoint left it."""
        if self._place is None or not self._place.resume:
            return
        tensors, header = _read(self._place)
        if header["step"] > loop.settings.steps:
            raise BadRequest(
                f"the checkpoint in {self._place.folder} has done {header['step']} steps and "
                f"steps is {loop.settings.steps}; ask for at least as many"
            )
        states = _unflattened(tensors, header)
        for key, weight in self._parameters.items():
            weight.data.copy_(tensors[f"parameter/{key}"])
        loop.optimiser.load_state_dict(states["optimiser"])
        for name, part in self._beside.items():
            # A run that resumes in another precision may begin or end to scale its gradients.
            if f"beside/{name}" in states:
                part.load_state_dict(states[f"beside/{name}"])
        loop.generator.set_state(tensors["generator"])
        loop.step, loop.rows = header["step"], header["rows"]

    def _write(self, loop: Any) -> None:
        assert self._place is not None
        tensors: dict[str, Tensor] = {"generator": self._generator}
        tensors |= {f"parameter/{key}": weight for key, weight in self._parameters.items()}
        plain: dict[str, Any] = {}
        states = {"optimiser": loop.optimiser.state_dict()}
        states |= {f"beside/{name}": state for name, state in self._before.items()}
        for name, state in states.items():
            plain[name] = _flattened(state, f"state/{name}", tensors)
        header = {
            "format": FORMAT,
            "identity": self._place.identity,
            "step": loop.step,
            "rows": loop.rows,
            "states": plain,
        }
        ready = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        self._place.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._place.file, save(ready, {"checkpoint": json.dumps(header)}))


def _flattened(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Moves tensors out of nested values and leaves their names behind."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, dict):
        pairs = [[key, _flattened(each, f"{name}/{key}", tensors)] for key, each in state.items()]
        return {"pairs": pairs}
    if isinstance(state, list | tuple):
        return {"items": [_flattened(v, f"{name}/{i}", tensors) for i, v in enumerate(state)]}
    return {"value": state}


def _unflattened(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    def whole(written: dict[str, Any]) -> Any:
        if "tensor" in written:
            return tensors[written["tensor"]].clone()
        if "pairs" in written:
            return {key: whole(each) for key, each in written["pairs"]}
        if "items" in written:
            return [whole(each) for each in written["items"]]
        return written["value"]

    return {name: whole(state) for name, state in header["states"].items()}


def _read(place: Checkpointing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint of this very run.

    Raises:
        BadRequest: there is none, it is damaged, or it is of another method, base or request.
    """
    try:
        with safe_open(place.file, framework="pt") as opened:
            header = parse_json(opened.metadata()["checkpoint"], "its record")
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BadRequest(
            f"there is no checkpoint in {place.folder} to resume from; start without --resume"
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadRequest(
            f"{place.file} is damaged ({error}); delete it and start without --resume"
        ) from error
    if header.get("format") != FORMAT or header["identity"] != place.identity:
        theirs, ours = _differing(header.get("identity", "{}"), place.identity)
        raise BadRequest(
            f"the checkpoint in {place.folder} is of another run ({theirs}; this one: {ours}); "
            "give the same command again, or delete it and start without --resume"
        )
    return tensors, header


def _differing(theirs: str, ours: str) -> tuple[str, str]:
    """Names what differs between two identities."""
    first, second = (dict(parse_json(each, "a checkpoint")) for each in (theirs, ours))
    if first.get("method") != second.get("method"):
        first, second = ({"method": each.get("method")} for each in (first, second))
    names = [name for name in second if first.get(name) != second[name]] or ["format"]
    return tuple(  # type: ignore[return-value]
        ", ".join(f"{name} {str(each.get(name))[:80]}" for name in names)
        for each in (first, second)
    )


def identity_of(method: str, model: str, request: Any, settings: Any, seed: int) -> str:
    """Writes what decides a run, so that a checkpoint is only resumed by the same one.

    Args:
        method: its name.
        model: name of the base.
        request: what is erased and kept.
        settings: of the method; its `MAY_CHANGE` may differ.
        seed: of all draws.
    """
    facts = {name: value for name, value in asdict(settings).items() if name not in MAY_CHANGE}
    decisive = {"method": method, "base": model, "request": asdict(request), "seed": seed}
    return json.dumps(decisive | facts, sort_keys=True, default=str)
