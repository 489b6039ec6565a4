"""What the proxies of the tests have in common: a port of 127.0.0.1, and a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading


class ProgressListener:
    """Accepts connections until it is closed.

    A subclass sets up all that `serve` needs before it calls ``super().__init__()``, which begins to accept.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Closing alone would not wake the thread that waits.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def serve(self, client: socket.socket) -> None:
        """Handle one connection, in a thread of its own."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()
