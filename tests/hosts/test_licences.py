"""What a base model's card says of its licence, or nothing."""

import pytest

from efface.hosts.licences import BaseCard, base_card


def test_the_card_in_a_folder_is_read(tmp_path):
    text = "---\nlicense: other\nlicense_name: house\nlicense_link: https://x.org/L\nlanguage: en\n"
    (tmp_path / "README.md").write_text(text + "base_model: a/b\n---\n# Model\n---\nlicense: mit\n")
    told = base_card(str(tmp_path))
    assert told == BaseCard("other", "house", "https://x.org/L", ("en",), "a/b")
    assert told.title == "house (https://x.org/L)"


@pytest.mark.parametrize(
    "text", ["", "# Model\n", "---\n: [\n---\n", "---\n- a\n---\n", "---\nlicense: 3"]
)
def test_a_card_without_metadata_says_nothing(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert base_card(str(tmp_path)) == BaseCard()
    assert base_card("owner/name").title == ""


def test_a_bundled_model_has_a_licence():
    assert base_card("emoji").licence_name == "mixed-attribution"
