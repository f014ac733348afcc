"""What the benchmarks ask of the machine: free ports, where programs are, and the end of those they have started."""

import os
import shutil
import socket
import subprocess

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
