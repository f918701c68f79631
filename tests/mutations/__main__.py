"""Tries mutations: ``python -m tests.mutations [part of a name]``; exits 1 if one survives."""

import sys
import time

# Loaded once, before the processes fork.
import torch
import transformers.models.clip.modeling_clip  # noqa: F401

from tests.mutations.listed import MUTATIONS
from tests.mutations.running import caught


def main(part: str) -> int:
    """Prints one line per mutation."""
    torch.set_num_threads(1)
    survivors = 0
    for mutation in MUTATIONS:
        if part not in mutation.name:
            continue
        start, said = time.perf_counter(), "caught"
        try:
            said = "caught" if caught(mutation) else "SURVIVED"
        except (RuntimeError, ValueError) as error:
            said = f"BROKEN ({error})"
        survivors += said != "caught"
        sys.stdout.write(f"{said:9} {time.perf_counter() - start:5.1f} s  {mutation.name}\n")
        sys.stdout.flush()
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
