"""Prints, for each TCP socket of a process at a local port, its state and its options, as JSON."""

import ctypes
import json
import os
import re
import socket
import sys

PIDFD_GETFD = 438
LISTEN, FASTOPEN, USER_TIMEOUT, DEFER_ACCEPT = 10, 23, 18, 9

pid, port = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
process = os.pidfd_open(pid)
found = []
for entry in os.listdir(f"/proc/{pid}/fd"):
    if not re.match(r"socket:", os.readlink(f"/proc/{pid}/fd/{entry}")):
        continue
    copy = libc.syscall(PIDFD_GETFD, process, int(entry), 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    with socket.socket(fileno=copy) as one:
        if one.family not in (socket.AF_INET, socket.AF_INET6) or one.getsockname()[1] != port:
            continue
        tcp = lambda option: one.getsockopt(socket.IPPROTO_TCP, option)
        on = one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        six = one.family == socket.AF_INET6
        found.append({
            "listens": tcp(socket.TCP_INFO) & 0xff == LISTEN,
            "nodelay": tcp(socket.TCP_NODELAY) != 0,
            "keepalive": tcp(socket.TCP_KEEPIDLE) if on else 0,
            "defer_accept": tcp(DEFER_ACCEPT),
            "user_timeout_ms": tcp(USER_TIMEOUT),
            "fastopen": tcp(FASTOPEN),
            "v6_only": six and one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) != 0,
        })
print(json.dumps(found))
