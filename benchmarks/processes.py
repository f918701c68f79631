"""Measurements that need a process of their own, for its memory and its threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from efface.memory import peak_resident_bytes

__all__ = ["held", "took"]


def took(module: str, *arguments: str, threads: int) -> dict[str, Any]:
    """Runs a module in another process; gives what its last line says, which is JSON."""
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def held() -> int:
    """Gives the most bytes that this process has held so far, and no other.

    What the system counts as ``ru_maxrss`` of a process is at least what its parent held when it
    started this one, so a benchmark with a model of its own would be seen in all its children.
    """
    return peak_resident_bytes()
