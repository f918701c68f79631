"""Toy judges' models, saved once per session."""

import pytest
import torch

from tests.judges.toys import saved_classifier, saved_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return saved_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory):
    return saved_classifier(tmp_path_factory.mktemp("vit"))


@pytest.fixture
def pictures():
    return torch.rand(5, 3, 20, 20, generator=torch.Generator().manual_seed(0))
