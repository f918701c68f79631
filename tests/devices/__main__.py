"""Tries every case of one kind on the toy device: ``python -m tests.devices methods``.

Kinds are methods, recognisers (methods for models that read pictures), attacks and guides. Prints
a line for each case, and exits 1 where one fails or gives another result than on the processor.
"""

from __future__ import annotations

import copy
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial

import torch

import tests.conftest
from efface import registry
from efface.deltas.delta import Delta
from efface.hosts.families import host_of
from efface.revival.drawing import draw
from efface.revival.target import Knowledge
from tests.devices.accelerator import NAME, WITHOUT_FLOAT64, register

CLOSE = 2e-2
"""How far, relatively, a change of weights or a latent may be from the processor's: training makes
rounding grow."""


def main(kind: str, part: str = "") -> int:
    """Tries what has a part in its name."""
    register()
    on_processor = tests.conftest.host
    tests.conftest.host = lambda *given, **named: on_processor(*given, **named).to(NAME)
    tests.conftest.shared = cache(tests.conftest.host)
    failed = 0
    for name, attempt in KINDS[kind]():
        if part not in name:
            continue
        try:
            attempt()
            said = "same"
        except Exception as error:
            failed += 1
            frames = traceback.extract_tb(error.__traceback__)
            last = [each for each in frames if "site-packages" not in each.filename][-1]
            said = f"FAILED at {last.filename}:{last.lineno} {' '.join(repr(error).split()):.300}"
        sys.stdout.write(f"{name}: {said}\n")
        sys.stdout.flush()
    return int(failed > 0)


def _methods() -> Iterator[tuple[str, Callable[[], None]]]:
    from tests.cases import CASES
    from tests.conformance.conftest import run

    def attempt(case):
        pipes = tests.conftest.host(case.host), tests.conftest.host(case.host).to("cpu")
        found = []
        for pipe in pipes:
            method = registry.build("methods", case.method, **case.settings)
            found.append(run(method, case, pipe).delta)
        with found[0].apply(pipes[0]):
            pass
        here, there, base = (_weights(pipes[1], delta) for delta in (*found, None))
        size = (there - base).norm()
        if size:
            # By what they do: factors of one change may be turned.
            far = float((here - there).norm() / size)
            assert far <= CLOSE, f"{far:.2g} of the change away"
        elif found[0].row_maps:
            # Of nearly dependent rows, many coefficients give one map.
            here, there, base = (_answer(pipes[1], delta) for delta in (*found, None))
            assert (here - there).norm() <= 0.05 * (there - base).norm()
        else:
            assert_close(*found)

    for case in CASES:
        trains = "weight_change" in case.golden
        if trains and "flux" in case.host and os.environ.get(WITHOUT_FLOAT64):
            continue  # Of devices without float64, diffusers' transformer knows Apple's by name.
        yield case.name, partial(attempt, case)


def _weights(pipe, delta):
    """Gives all weights of a pipeline with a delta applied."""
    with nullcontext() if delta is None else delta.apply(pipe):
        parts = [one for one in pipe.components.values() if isinstance(one, torch.nn.Module)]
        every = [weight.detach().flatten() for one in parts for weight in one.parameters()]
        return torch.cat(every).double()


def _answer(pipe, delta):
    """Asks the denoiser once about the erased concept, with a delta applied."""
    with nullcontext() if delta is None else delta.apply(pipe):
        return host_of(pipe).probe("a picture of a pistol")


def _recognisers() -> Iterator[tuple[str, Callable[[], None]]]:
    from tests.cases import FORGETTING_CASES
    from tests.conformance.test_forgetting import asked, run
    from tests.pictures import knowing

    def attempt(case):
        there = knowing(case.kind, case.architecture)
        here = copy.deepcopy(there)
        here.model.to(NAME)
        found = []
        for model in (here, there):
            method = registry.build("methods", case.method, **case.settings)
            found.append(run(method, model, asked(model)).delta)
        assert_close(*found)

    for case in FORGETTING_CASES:
        yield case.name, partial(attempt, case)


def _attacks() -> Iterator[tuple[str, Callable[[], None]]]:
    from tests.cases import ATTACK_CASES, CASES
    from tests.conformance import test_attacks
    from tests.conformance.conftest import run

    pipe = test_attacks.shared = tests.conftest.shared
    pipe = pipe("tiny_sd1")

    def look(images, _):
        assert images.device.type == "cpu", "judges are given pictures on the processor"
        return images.mean(dim=(1, 2, 3))

    test_attacks.KNOWN = Knowledge(
        others=test_attacks.OTHERS, look=look, logits=look, wordings=test_attacks.WORDINGS
    )

    @cache
    def erasure(method):
        ours = next(c for c in CASES if (c.method, c.host) == (method, "tiny_sd1"))
        return run(registry.build("methods", method, **ours.settings), ours, pipe).delta

    def attempt(case):
        target = test_attacks.aimed(case, erasure)
        rounds = test_attacks.driven(case, target)
        with target.edited():
            for attempts in rounds:
                assert draw(target, attempts).device.type == "cpu"

    for case in ATTACK_CASES:
        yield case.attack, partial(attempt, case)


def _guides() -> Iterator[tuple[str, Callable[[], None]]]:
    from efface.diffusion.denoising import Denoiser
    from tests.conformance.test_guides import built, pairs
    from tests.guiding.toys import drawn

    def attempt(case, family):
        here = tests.conftest.shared(f"tiny_{family}")
        found = [
            drawn(Denoiser(pipe), [built(case)])[0].cpu()
            for pipe in (here, copy.deepcopy(here).to("cpu"))
        ]
        torch.testing.assert_close(*found, rtol=CLOSE, atol=CLOSE)

    for pair in pairs(everywhere=True):
        if os.environ.get(WITHOUT_FLOAT64) and pair.values[1] == "flux":
            continue  # Of devices without float64, diffusers' transformer knows Apple's by name.
        yield pair.id, partial(attempt, *pair.values)


def assert_close(one: Delta, other: Delta) -> None:
    """Fails where two deltas are not the same change up to rounding.

    A bias of keys shifts all of a row's attention alike and so does nothing: what training makes of
    it is rounding, and it is left out.
    """
    first, second = one.tensors(), other.tensors()
    far = size = 0.0
    for name in (first.keys() | second.keys()) - {n for n in first if "k_proj.bias" in n}:
        here, there = first.get(name), second.get(name)
        assert here is None or here.device.type == "cpu", f"{name} is kept on the device"
        here, there = (0.0 if each is None else each.double() for each in (here, there))
        far += float(((here - there) ** 2).sum())
        size += float((torch.as_tensor(there) ** 2).sum())
    assert far <= CLOSE**2 * size + 1e-12, f"{far**0.5:.2g} away from a change of {size**0.5:.2g}"


KINDS = {
    "methods": _methods,
    "recognisers": _recognisers,
    "attacks": _attacks,
    "guides": _guides,
}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*sys.argv[1:]))
