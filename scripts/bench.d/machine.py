"""What the benchmarks ask of the machine: free ports, and where programs are."""

import os
import shutil
import socket


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
