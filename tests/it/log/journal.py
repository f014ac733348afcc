"""Receives what is sent to systemd's journal and writes each entry as an object on a line.

Reads the native protocol as https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ describes it. An entry that is not of that form
ends the program.

    journal.py SOCKET OUT
"""

import array
import fcntl
import json
import os
import socket
import struct
import sys

# linux/fcntl.h
F_GET_SEALS = 1034
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE


def fields(entry):
    """The fields of an entry: by name a list of values."""
    found = {}
    while entry:
        end = entry.index(b"\n")
        name, mark, value = entry[:end].partition(b"=")
        rest = entry[end + 1 :]
        if not mark:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n", "a line feed stands behind a value with a length"
            rest = rest[1:]
        # As journald keeps them; it drops others without a word.
        letters = name.replace(b"_", b"A")
        assert letters.isalnum() and letters.upper() == letters and len(name) <= 64, name
        assert not name.startswith(b"_") and not name[:1].isdigit(), name
        found.setdefault(name.decode(), []).append(value.decode())
        entry = rest
    return found


def received(receiver):
    """One entry, and whether it has come as memory."""
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    data, ancillary, flags, _ = receiver.recvmsg(1 << 20, room)
    assert not flags & socket.MSG_TRUNC, "all of it is here"
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content)
    if not descriptors:
        return data, False
    assert not data and len(descriptors) == 1, "either bytes or one descriptor"
    assert fcntl.fcntl(descriptors[0], F_GET_SEALS) & SEALS == SEALS, "journald takes sealed memory only"
    with os.fdopen(descriptors[0], "rb") as memory:
        memory.seek(0)
        return memory.read(), True


def main(path, out):
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    with open(out, "w", encoding="utf-8") as lines:
        while True:
            entry, is_memory = received(receiver)
            print(json.dumps({"fields": fields(entry), "is_memory": is_memory}), file=lines, flush=True)


main(*sys.argv[1:])
