"""A telephone line to a server, which can be cut: TCP through this process."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Line:
    """Forwards connections to a loopback port until `cut`; after `mend` again, to new ones.

    While it is silent connections stand, new ones too, and nothing comes through.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._whole = True
        self._speaks = threading.Event()
        self._speaks.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks off, and new ones are hung up on."""
        with self._lock:
            self._whole = False
            ends, self._open = self._open, []
        for end in ends:
            _hang_up(end)

    def silence(self) -> None:
        """Nothing comes through, and nobody is told."""
        self._speaks.clear()

    def mend(self) -> None:
        """The end of `cut`, and of `silence`."""
        with self._lock:
            self._whole = True
        self._speaks.set()

    def close(self) -> None:
        """For good."""
        self.cut()
        self._speaks.set()
        _hang_up(self._listening)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:  # closed
                return
            with self._lock:
                if not self._whole:
                    caller.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [caller, server]
            for source, sink in ((caller, server), (server, caller)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while said := source.recv(65_536):
                self._speaks.wait()
                sink.sendall(said)
        for end in (source, sink):
            _hang_up(end)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
