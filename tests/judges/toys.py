"""Saved toy models as a user would have them: a CLIP folder and a classifier folder."""

import json

import torch

from efface.hosts.toys import tiny_tokenizer

PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 16},
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
LABELS = {0: "tench, Tinca tinca", 1: "pistol", 2: "revolver, six-gun"}


def saved_clip(folder):
    """Saves a toy CLIP model; gives the folder."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**small, **ends, "vocab_size": len(tokenizer), "num_hidden_layers": 1}
    text["max_position_embeddings"] = 16
    vision = {**small, "num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def saved_classifier(folder):
    """Saves a toy image classifier of three labels; gives the folder."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        image_size=16,
        patch_size=8,
        id2label=LABELS,
        label2id={label: number for number, label in LABELS.items()},
    )
    with torch.random.fork_rng(devices=[]):
        model = ViTForImageClassification(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder
