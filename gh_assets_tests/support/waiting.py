"""Waiting for conditions and servers, in place of fixed waits."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until a function returns a true value; return it. The pauses grow: each call costs processor time, too."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition was not true within {seconds:.0f} s"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.2)
    return value


@contextmanager
def running(command: Sequence[str], answers: Callable[[], bool], **options: Any) -> Iterator[None]:
    """Run a server until the end of the block, which begins when the server answers."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **options
    )

    def ready() -> bool:
        assert process.poll() is None, f"{command[0]} exited during its start: does it have its requirements?"
        return answers()

    try:
        until(ready, 60)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
