"""A helper in another language that does as its first argument says: well, or not.

    well       answers `world` with what it was given
    deaf       takes no connection
    mute       answers no ping
    rude       answers a hello with garbage
    stubborn   ignores SIGTERM
    unlinks    takes the name of its socket away when it ends
    shuts      shuts its socket down when it ends
    forks      leaves a child behind that does the work, and ends
"""
import os, signal, socket, sys, threading
import msgpack

REQUEST, RESPONSE, HELLO, WELCOME, PING, PONG = 0, 1, 3, 4, 5, 6
mode = sys.argv[1]

def world():
    descriptors = {}
    for number in range(64):
        try:
            descriptors[str(number)] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass  # It is not open.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {"pid": os.getpid(), "environment": dict(os.environ), "descriptors": descriptors,
            "status": {field: value.strip() for field, value in status.items()}}

def talk(connection):
    stream = connection.makefile("rb")
    while header := stream.read(4):
        kind, id, *rest = msgpack.unpackb(stream.read(int.from_bytes(header, "big")))
        if kind == HELLO and mode == "rude":
            connection.sendall(b"\0\0\0\1\xc1")
        elif kind == HELLO:
            limits = {"frame_len_max": 65536, "requests_max": 9, "subscriptions_max": 9}
            send(connection, [WELCOME, 1, {"name": os.environ["FOREBAY_ROLE"], "version": "1", **limits}])
        elif kind == PING and mode != "mute":
            send(connection, [PONG, id])
        elif kind == REQUEST:
            send(connection, [RESPONSE, id, None, world()])

def send(connection, message):
    body = msgpack.packb(message)
    connection.sendall(len(body).to_bytes(4, "big") + body)

def end(*_):
    if mode == "unlinks":
        os.unlink(os.environ["FOREBAY_IPC_DIR"] + "/stranger.sock")
    if mode == "shuts":
        server.shutdown(socket.SHUT_RDWR)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
if mode == "forks" and os.fork() > 0:
    signal.pause()
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while mode == "deaf":
    signal.pause()
server = socket.socket(fileno=3)
while True:
    threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
