"""Trains the tokenizer, the text tower and the convolutional image tower by contrast.

    python emoji/train_clip.py [--steps N]

A caption is a positive of every picture it is true of (same nouns, and same style unless it names
none), so a caption without a style is no false negative. Held-out pairs and paraphrases are never
shown.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from augment import augment
from captions import LENGTH, caption, train_tokenizer
from efface.bundled.vision import ConvNet, ConvNetShape, save_network
from fetch import WORK
from pictures import Pictures, draw
from training import Schedule, train

WIDTH = 128
BATCH = 96
SEED = 2


class Towers(nn.Module):
    """Both towers and the temperature."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.text = CLIPTextModel(config)
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.vision = ConvNet(ConvNetShape((16, 32, 96, 192), WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(2.7))

    def similarity(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Scaled cosine of every caption (rows) with every picture (columns)."""
        texts = self.text_projection(self.text(input_ids=tokens).pooler_output)
        scale = self.log_scale.clamp(max=4.6).exp()
        return scale * F.normalize(texts, dim=1) @ F.normalize(self.vision(images), dim=1).T


def true_of(captions: list[str], labels: list[dict[str, Any]]) -> Tensor:
    """1 where a caption is true of a picture; caption i was made for picture i."""
    nouns = [tuple(sorted(label["nouns"])) for label in labels]
    names = [
        label["style"] if label["style"] in text else None
        for text, label in zip(captions, labels, strict=True)
    ]
    rows = [
        [
            n == m and (style is None or style == other["style"])
            for m, other in zip(nouns, labels, strict=True)
        ]
        for n, style in zip(nouns, names, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float32)


def contrast(similarity: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy toward the uniform distribution over positives, in both directions."""
    texts = positive / positive.sum(1, keepdim=True)
    images = positive.T / positive.T.sum(1, keepdim=True)
    return (F.cross_entropy(similarity, texts) + F.cross_entropy(similarity.T, images)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = WORK / "pipeline" / "tokenizer"
    if not folder.exists():
        train_tokenizer().save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    pictures = Pictures.read()
    singles, pairs = pictures.trained, pictures.where(kind="pair")
    torch.manual_seed(SEED)
    towers = Towers(tokenizer)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.cat(
            [draw(singles, BATCH * 5 // 6, generator), draw(pairs, BATCH // 6, generator)]
        )
        labels = [pictures.labels[int(row)] for row in rows]
        texts = [caption(label, generator) for label in labels]
        tokens = tokenizer(texts, padding="longest", return_tensors="pt").input_ids
        images = augment(pictures.images(rows) / 2 + 0.5, generator)
        similarity = towers.similarity(tokens, images)
        hits = true_of(texts, labels).gather(1, similarity.argmax(1, keepdim=True)).mean()
        return contrast(similarity, true_of(texts, labels)), {"matched": float(hits)}

    schedule = Schedule(steps=options.steps, peak=1.2e-3, warmup=100, flat=0.4)
    best = train(
        towers, loss, folder=WORK / "clip", schedule=schedule, seed=SEED, averaging=0.995, every=50
    )
    assert isinstance(best, Towers)
    best.text.half().save_pretrained(WORK / "pipeline" / "text_encoder")
    weights = WORK / "weights"
    weights.mkdir(exist_ok=True)
    save_network(best.vision, weights / "clip_image.safetensors")
    projection = {
        "text_projection": best.text_projection.weight.half().contiguous(),
        "log_scale": best.log_scale.detach().half(),
    }
    save_file(projection, weights / "clip_text_projection.safetensors")


if __name__ == "__main__":
    main()
