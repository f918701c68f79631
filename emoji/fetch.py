"""Fetches the icon sets from the npm registry, at the versions the model was trained on.

python emoji/fetch.py            writes
emoji/work/icons/node_modules/@iconify-json/<set>/{icons,info}.json
"""

from __future__ import annotations

import subprocess
from pathlib import Path

WORK = Path(__file__).parent / "work"
ICONS = WORK / "icons"

TRAINED_SETS = {
    "twemoji": "1.2.5",
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji-high-contrast": "1.2.6",
}
"""The sets whose art the model was trained on. Share-alike sets are left out on purpose."""

UNSEEN_SETS = {"emojione": "1.2.3", "fxemoji": "1.2.2"}
"""Sets that nothing was trained on; the judge's transfer accuracy is measured on them."""


def main() -> None:
    ICONS.mkdir(parents=True, exist_ok=True)
    packages = [
        f"@iconify-json/{name}@{version}" for name, version in (TRAINED_SETS | UNSEEN_SETS).items()
    ]
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
    subprocess.run([*command, "--prefix", str(ICONS), *packages], check=True)


if __name__ == "__main__":
    main()
