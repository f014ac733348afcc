"""What the benchmarks ask of the machine: free ports, directories, where programs are, and the end of those started."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

STOP_TIMEOUT_S = 15


def free_ports(count):
    """Ports nobody holds now; all are held until the last is found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextlib.contextmanager
def scratch(place=None):
    """A directory in that place, or where the system has such, which is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-", dir=place, ignore_cleanup_errors=True) as directory:
        yield pathlib.Path(directory)


def find(program):
    """Its path; servers are in sbin, which a user's PATH may lack. None: it is not installed."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")


def end(process):
    """Ends it in order, or at all."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
