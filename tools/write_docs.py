"""Writes every page that is derived from the code or from committed results.

python tools/write_docs.py           writes them
python tools/write_docs.py --check   exits 1 and names the pages that are out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import attack_page
import cli_page
import debias_page
import forgetting_tables
import guides_page
import kept_pairs_table
import leaderboard_page
import method_costs
import method_pages
import module_map
import readme_tables
import speed_page
import streaming_tables
import training_page

ROOT = Path(__file__).parent.parent
CHOOSING = ROOT / "docs" / "choosing.md"
RECOGNISERS = ROOT / "docs" / "recognisers.md"
HARDEST = ROOT / "docs" / "hardest.md"
GUIDES = ROOT / "docs" / "guides.md"
MANY = ROOT / "docs" / "many.md"
STREAMING = ROOT / "docs" / "streaming.md"
RESULTS = ROOT / "benchmarks" / "results"


def generated() -> dict[Path, str]:
    """Gives the text that every generated file should have."""
    return {
        **method_pages.pages(ROOT / "docs" / "methods", RESULTS),
        ROOT / "docs" / "attacks.md": attack_page.page(),
        ROOT / "docs" / "cli.md": cli_page.page(),
        ROOT / "docs" / "debiasing.md": debias_page.page(RESULTS),
        RECOGNISERS: forgetting_tables.recognisers(RECOGNISERS, RESULTS),
        HARDEST: forgetting_tables.hardest(HARDEST, RESULTS),
        GUIDES: guides_page.page(GUIDES, RESULTS),
        MANY: kept_pairs_table.page(MANY, RESULTS),
        ROOT / "docs" / "modules.md": module_map.page(ROOT),
        ROOT / "docs" / "results.md": readme_tables.results_page(RESULTS / "erasure")
        + "\n"
        + readme_tables.every_method(RESULTS),
        ROOT / "docs" / "leaderboard.md": leaderboard_page.page(RESULTS),
        CHOOSING: leaderboard_page.choosing(CHOOSING.read_text("utf-8"), RESULTS),
        ROOT / "docs" / "speed.md": speed_page.page(RESULTS),
        ROOT / "docs" / "streaming.md": streaming_tables.page(STREAMING, RESULTS),
        ROOT / "docs" / "training.md": training_page.page(RESULTS),
        ROOT / "src" / "efface" / "studio" / "costs.json": method_costs.page(RESULTS),
        ROOT / "README.md": readme_tables.readme(
            ROOT / "README.md", leaderboard_page.front(RESULTS)
        ),
    }


def out_of_date(pages: dict[Path, str]) -> list[Path]:
    """Lists files that differ from what they should be, and pages of things that are gone."""
    stale = [p for p, text in pages.items() if not p.exists() or p.read_text("utf-8") != text]
    orphans = [p for p in (ROOT / "docs" / "methods").glob("*.md") if p not in pages]
    return [*stale, *orphans]


def main() -> int:
    """Writes or checks; gives the exit code."""
    if unknown := [each for each in sys.argv[1:] if each != "--check"]:
        print(f"there is no option {unknown[0]}; give --check, or nothing to write the pages")
        return 2
    pages = generated()
    stale = out_of_date(pages)
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"out of date: {path.relative_to(ROOT)}; run `make docs`")
        return 1 if stale else 0
    for path in stale:
        if path in pages:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
        else:
            path.unlink()
            print(f"removed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
