"""Measures how long somebody waits for the studio and for the first erased picture.

python -m tests.studio.times        writes benchmarks/results/studio.json
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.studio import tour

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "studio.json"
START_WITHIN, PICTURE_WITHIN = 10, 60
METHOD = "rece"
"""The method that the page has chosen when it opens."""
_SERVE = """
import sys
import efface.studio.app
from efface.cli.main import main
print("imported", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def measured(root):
    """Gives seconds of imports, from there to the first answer, and from a click to a picture."""
    port = tour.free_port()
    words = ["studio", "--runs", str(root), "--port", str(port)]
    began, address = time.perf_counter(), f"http://127.0.0.1:{port}/"
    serving = [sys.executable, "-c", _SERVE, *words]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "imported\n", "the studio does not import"
            imported = time.perf_counter()
            while not tour.answers(address):
                assert process.poll() is None, "the studio ended"
                time.sleep(0.1)
            answered = time.perf_counter()
            with tour.screen(address) as shown:
                shown.open(address)
                first = tour.erase(shown, method=METHOD, size="")
        finally:
            process.terminate()
            process.wait(30)
    return {
        "import_seconds": round(imported - began, 1),
        "start_seconds": round(answered - imported, 1),
        "first_picture_seconds": round(first, 1),
    }


def main():
    """Measures once, writes the row, and fails where a bar is missed."""
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        row = measured(Path(folder) / "runs")
    row |= {"method": METHOD, "processors": len(os.sched_getaffinity(0)), "load_before": load}
    held = {"command": "python -m tests.studio.times", "rows": [row]}
    RESULTS.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{row}\n")
    kept = row["start_seconds"] <= START_WITHIN and row["first_picture_seconds"] <= PICTURE_WITHIN
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
