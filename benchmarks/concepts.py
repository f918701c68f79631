"""Which concepts the experiments use: presets are chosen on some, measured on others."""

from __future__ import annotations

TUNING: tuple[str, ...] = ("dog", "swords", "mage", "watercolor")
"""Three nouns of different categories and a style; presets are chosen on these alone."""
TUNING_STYLES: tuple[str, ...] = ("watercolor", "sepia")
"""Styles that presets of methods that train are chosen on; the second colours the whole picture."""

MEASURED_NOUNS: tuple[str, ...] = (
    "pistol",
    "knife",
    "bomb",
    "cigarette",
    "cat",
    "frog",
    "penguin",
    "octopus",
    "apple",
    "pineapple",
    "pizza",
    "doughnut",
    "car",
    "rocket",
    "sailboat",
    "castle",
    "cactus",
    "rainbow",
    "soccer ball",
    "guitar",
    "umbrella",
    "crown",
    "santa",
    "ninja",
)
MEASURED_STYLES: tuple[str, ...] = ("black and white", "pixel art", "blueprint", "neon")
STYLE_ANCHOR = "twemoji"
"""What a measured style is replaced with. Without an anchor a prompt names no style, and the model
then draws one of its eight by chance: the erased one as often as one picture in eight or more."""

WITHOUT_ANCHOR: tuple[str, ...] = ("few_shot",)
"""Methods that steer nowhere, and refuse an anchor."""

TRAINED_NOUNS: tuple[str, ...] = (
    "pistol",
    "frog",
    "apple",
    "car",
    "castle",
    "rainbow",
    "guitar",
    "santa",
)
"""One of each category, among those measured, for methods that take longer."""
TRAINED_STYLES: tuple[str, ...] = ("pixel art", "blueprint")
