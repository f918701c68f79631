"""A package of somebody else's: a closed form, a method that trains, a guide, a judge, a metric.

Each is one file, named by an entry point, and one case; nothing in efface knows of them. The two
methods are efface's own under other names, so that their golden numbers are known.
"""

from pathlib import Path

import efface

METHODS = {"blend": ("uce", "Uce", "Blend"), "nudge": ("esd", "Esd", "Nudge")}

JUDGE = '''"""Says how much of one colour is in a picture."""

from dataclasses import dataclass

from efface.contracts import JudgeCard
from efface.metrics.estimates import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Reddish:
    """Takes the mean of a channel for the probability of anything."""

    channel: int
    """Which colour: 0, 1 or 2."""
    threshold: float = 0.5
    """Share from which the colour counts as there."""

    @property
    def card(self):
        """Nobody measured it."""
        notes = "Error rates were not measured."
        return JudgeCard(f"reddish {self.channel}", "1", self.threshold, UNKNOWN, UNKNOWN, notes)

    def knows(self, concept):
        """Says yes."""
        return True

    def presence(self, images, concept):
        """Gives the mean."""
        return images[:, self.channel].mean(dim=(1, 2))
'''

METRIC = '''"""How much light and dark there is in a picture."""

import torch


class Contrast:
    """Standard deviation of a picture's values."""

    name = "contrast"
    unit = "of 1"
    better = "higher"
    uses = "pixels"
    reverses = False
    threshold = None

    def __init__(self, _pixels=None):
        """Takes no instrument."""

    def applies(self, sample):
        """Says whether anything was asked for."""
        return bool(sample.prompt)

    def scores(self, images, samples):
        """Scores each picture."""
        return images.flatten(1).std(dim=1)
'''

GUIDE = '''"""Draws with less of what guidance adds."""

from dataclasses import dataclass
from typing import ClassVar

from efface.contracts import Guide, Paper
from efface.diffusion.noise import guided
from efface.guiding.course import Course


@dataclass(frozen=True, kw_only=True)
class Calm(Guide):
    """Halves the scale of guidance, or whatever share is left."""

    name: ClassVar[str] = "calm"
    paper: ClassVar[Paper] = Paper("None", "none", 2026)
    combines: ClassVar[bool] = True

    share: float = 0.5
    """Share of the scale that is left; 1: off."""

    def begin(self, run):
        """Changes the scale, unless nothing is taken from it."""
        return None if self.share == 1 else Calming(self.share * run.scale(self.name))


class Calming(Course):
    """Combines with another scale."""

    def __init__(self, scale):
        self.scale = scale

    def combine(self, visit, answers):
        """Guides by it."""
        return guided(*visit.predictions(), self.scale)
'''

CASES = '''"""One case each."""

from dataclasses import replace

from tests.cases import closed, trained
from tests.cases.kinds import GuideCase, JudgeCase, MetricCase


def of(cases, method, name):
    """Takes the first case of a method for one of another name."""
    return replace(next(case for case in cases if case.method == method), method=name)


CASES = (
    of(closed.CASES, "uce", "blend"),
    of(trained.CASES, "esd", "nudge"),
    GuideCase(guide="calm", off={"share": 1.0}, evaluations=8),
    JudgeCase(judge="reddish", settings=lambda _: {"channel": 0}, changed=({"channel": 2},)),
    MetricCase(
        metric="contrast", better=lambda images: images, worse=lambda images: 0.2 * images
    ),
)
'''

ENTRY_POINTS = """[efface.methods]
blend = extras.blend
nudge = extras.nudge
[efface.guides]
calm = extras.calm
[efface.judges]
reddish = extras.reddish
[efface.metrics]
contrast = extras.contrast
[efface.cases]
extras = extras.cases
"""


def installed(folder):
    """Writes the package as an installer would; gives the folder to import it from."""
    package, facts = folder / "extras", folder / "extras-1.dist-info"
    package.mkdir()
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: extras\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    files = {"__init__": '"""Extras."""\n', "calm": GUIDE, "reddish": JUDGE, "contrast": METRIC}
    files["cases"] = CASES
    for name, (known, old, new) in METHODS.items():
        source = Path(efface.__file__).parent / "methods" / f"{known}.py"
        text = source.read_text().replace(f"class {old}(", f"class {new}(")
        files[name] = text.replace(f'= "{known}"', f'= "{name}"')
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    return folder
