"""Measurements that need a process of their own, for its memory and its threads."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

__all__ = ["held", "took"]


def took(module: str, *arguments: str, threads: int) -> dict[str, Any]:
    """Runs a module in another process; gives what its last line says, which is JSON."""
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def held() -> int:
    """Gives the most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
