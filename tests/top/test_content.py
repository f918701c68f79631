"""Objects are named by what they hold, wherever they lie and whatever they have counted."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from efface.content import content_hash


@dataclass(frozen=True)
class Settings:
    size: int = 3
    folder: Path = Path("here")


class Judge:
    def __init__(self, weights, words=("a",), scale=1.0):
        self.network = torch.nn.utils.skip_init(torch.nn.Linear, 2, 2)
        torch.nn.init.constant_(self.network.weight, weights)
        torch.nn.init.zeros_(self.network.bias)
        self.words, self.scale, self.asked, self.me = words, scale, 0, self


def test_content_decides_and_nothing_else():
    judge = Judge(1.0)
    first = content_hash(judge)
    judge.asked = 17
    assert content_hash(judge) == first == content_hash(Judge(1.0))
    others = [Judge(2.0), Judge(1.0, words=("b",)), Judge(1.0, scale=0.5)]
    assert len({first, *map(content_hash, others)}) == 4


def test_kinds_of_values():
    values = [1, 1.0, "1", True, None, b"1", (1,), [1], {1: 2}, {1}, Settings, Settings()]
    values += [np.ones(2), np.ones(2, dtype=np.float32), torch.ones(2), torch.ones(1, 2)]
    values += [lambda x: x + 1, lambda x: x + 2, partial(max, 1), partial(max, 2), Settings(4)]
    assert len({content_hash(value) for value in values}) == len(values)
    assert content_hash(Settings(folder=Path("there"))) == content_hash(Settings())
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


def test_what_a_function_holds_counts():
    def adding(amount):
        return lambda x: x + amount

    assert content_hash(adding(1)) == content_hash(adding(1)) != content_hash(adding(2))


def test_an_own_name_is_taken():
    class Named:
        identity = "abc"

        def __init__(self, calls):
            self.calls = [calls]

    assert content_hash(Named(1)) == content_hash(Named(2))
