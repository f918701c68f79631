"""Text of others controls nothing where it is shown."""

import pytest

from efface.concepts import Concept
from efface.errors import BadRequest
from efface.printable import is_text, printable


def test_controls_become_escapes_and_letters_stay():
    assert printable("a\x1b[31mb\x07") == r"a\x1b[31mb\x07"
    assert printable("\u202egnp\u2028") == r"\u202egnp\u2028"
    assert printable("\x85\ud800\x00") == r"\x85\ud800\x00"
    assert printable("手枪 pistolé\n\t🔫") == "手枪 pistolé\n\t🔫"


@pytest.mark.parametrize("field", ["name", "prompts", "synonyms"])
def test_a_concept_is_text(field):
    assert not is_text("\udcff")
    given = {"name": "pistol", field: "\udcff" if field == "name" else ("\udcff",)}
    with pytest.raises(BadRequest, match="holds bytes that are not text"):
        Concept(**given)


@pytest.mark.parametrize("field", ["name", "prompts", "synonyms"])
def test_a_concept_holds_no_nul(field):
    text = "pi\x00stol"
    given = {"name": "pistol", field: text if field == "name" else (text,)}
    with pytest.raises(BadRequest, match=r"'pi\\x00stol' holds a NUL"):
        Concept(**given)
