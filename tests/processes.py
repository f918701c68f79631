"""Other processes that tests start, watch and interrupt."""

import signal
import subprocess
from contextlib import contextmanager


@contextmanager
def started(command):
    """Runs a command that Ctrl-C reaches, and which is gone when the body ends.

    A shell starts background jobs with interrupts ignored, and processes hand that on.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()
