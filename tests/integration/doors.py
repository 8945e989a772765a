"""An HTTP server that lets nobody through until it is told to: transfers that are under way for as long as a test wants."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

PATIENCE = 60.0


class Doors(http.server.ThreadingHTTPServer):
    """Answers what begins with `/slow` only when it is `opened`; then, and all else, with `status`. `knocked`: somebody waits."""

    def __init__(self, address: str, status: int) -> None:
        self.knocked, self.opened = threading.Event(), threading.Event()
        doors = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/slow"):
                    doors.knocked.set()
                    doors.opened.wait(PATIENCE)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_HEAD = do_GET  # noqa: N815 - names of the standard library

            def log_message(self, *_: object) -> None:
                pass

        super().__init__((address, 0), Handler)

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no fault of ours."""


@contextlib.contextmanager
def doors(address: str, status: int = 404) -> Iterator[Doors]:
    with Doors(address, status) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.opened.set()
            server.shutdown()
            thread.join()
