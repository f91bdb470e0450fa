"""A sidecar that tells another process of what it makes and syncs. Started by path: this is no part of the package."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

VARIABLE = "CKPT_ASYNC_POWER"


class FarDisk:
    """Tells a `DiskServer`, and goes on when that has noted it. A `Watch`."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._guard = threading.Lock()

    def _tell(self, *words: object) -> None:
        with self._guard:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
            assert self._socket.recv(1) == b"."

    def made(self, device: int, inode: int, is_folder: bool) -> None:
        self._tell("made", device, inode, is_folder)

    def synced(self, pid: int, descriptor: int) -> None:
        self._tell("synced", pid, descriptor)


def main() -> int:
    spec = json.loads(os.environ[VARIABLE])
    sys.path.insert(0, spec["home"])
    from ckpt_async import sidecar
    from tests.faults.away import be_away_while
    from tests.faults.power import install

    be_away_while(spec["away"])
    install(FarDisk(spec["address"]), lambda name, function: setattr(os, name, function))
    return sidecar.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
