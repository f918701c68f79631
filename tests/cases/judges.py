"""Cases of judges."""

from efface.concepts import Concept
from tests.cases.kinds import JudgeCase
from tests.judges.toys import saved_classifier, saved_clip

ZEPPELIN = Concept(name="zeppelin")


def classifier(folder):
    """Three labels, of which two mean a pistol."""
    return {"folder": saved_classifier(folder)}


def clip(folder):
    """A CLIP model."""
    return {"folder": saved_clip(folder)}


CASES = (
    JudgeCase(judge="classifier", settings=classifier, unknown=ZEPPELIN),
    JudgeCase(judge="zero_shot", settings=clip, changed=({"alternatives": ("a tree", "a house")},)),
    JudgeCase(judge="emoji", unknown=ZEPPELIN),
    JudgeCase(judge="emoji-second", unknown=ZEPPELIN),
    JudgeCase(judge="emoji-remix", unknown=ZEPPELIN),
    JudgeCase(judge="emoji-scenes", unknown=ZEPPELIN),
)
