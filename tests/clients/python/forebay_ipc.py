"""A client of forebay's Unix sockets, as ipc-protocol.md has them, on the package `msgpack`.

From the bottom up: `Frames` cuts a stream into frames, `read` and `write` are the messages in them,
`Conversation` is a client's side of a connection to a helper without a socket, `Connection` has the
socket, and `Client`, `LogClient` and `ControlClient` are what a program uses.
"""

import socket
import struct
import time

import msgpack

REQUEST, RESPONSE, NOTIFICATION, HELLO, WELCOME, PING, PONG, CANCEL, CREDIT = range(9)
GO_AWAY, SUBSCRIBE, SNAPSHOT, EVENT, RESYNC, UNSUBSCRIBE, END, LOG = range(9, 17)

VERSION = 1
FRAME_LEN_MAX = 64 * 1024 * 1024
DEPTH_MAX = 128
CODES = {
    "failed", "panicked", "no_method", "bad_params", "deadline_exceeded", "cancelled", "overloaded", "too_long",
    "no_topic",
}


class Broken(Exception):
    """Whoever speaks has broken this rule: the connection must not go on."""

    def __init__(self, rule, reason):
        super().__init__(f"{rule}: {reason}")
        self.rule = rule


class Failed(Exception):
    """A request has an error instead of a result."""

    def __init__(self, error):
        known = error["code"] in CODES
        self.code = error["code"] if known else "failed"
        self.data = error.get("data") if known else None
        super().__init__(f"{self.code}: {error.get('message', '')}")


class Ended(Exception):
    """The connection is closed; `go_away` is what the helper has said before, if it has."""

    def __init__(self, go_away=None):
        super().__init__(go_away["reason"] if go_away else "the connection was closed")
        self.go_away = go_away


class Frames:
    """Bytes of a stream, cut into frames."""

    def __init__(self, len_max=FRAME_LEN_MAX):
        self.len_max = len_max
        self.unread = bytearray()

    def feed(self, data):
        self.unread += data

    def next(self):
        """The next whole frame's content; None: more bytes are needed."""
        if len(self.unread) < 4:
            return None
        (length,) = struct.unpack_from(">I", self.unread)
        if length == 0:
            raise Broken("F1", "an empty frame")
        if length > self.len_max:
            raise Broken("F2", f"a frame of {length} bytes, {self.len_max} are taken")
        if len(self.unread) < 4 + length:
            return None
        body = bytes(self.unread[4 : 4 + length])
        del self.unread[: 4 + length]
        return body


# The page's types. What a type is not is told apart strictly: True is no number, nor is 1.0.


def u32(value):
    return type(value) is int and 0 <= value < 1 << 32


def u64(value):
    return type(value) is int and 0 <= value < 1 << 64


def i64(value):
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def string(value):
    return type(value) is str


def array(value):
    return type(value) is list


def anything(_value):
    return True


class Map:
    """A map with these keys; in `optional` those that may be missing. Others are ignored."""

    def __init__(self, keys=None, optional=None):
        self.keys = keys or {}
        self.optional = optional or {}

    def __call__(self, value):
        return (
            type(value) is dict
            and all(string(key) for key in value)
            and all(key in value and kind(value[key]) for key, kind in self.keys.items())
            and all(kind(value[key]) for key, kind in self.optional.items() if key in value)
        )


ERROR = Map({"code": string}, {"message": string})
SHAPES = {
    REQUEST: (u32, string, array),
    RESPONSE: (u32, lambda value: value is None or ERROR(value), anything),
    NOTIFICATION: (string, array),
    HELLO: (u32, Map({"name": string}, {"frame_len_max": u32})),
    WELCOME: (
        u32,
        Map({"name": string, "version": string, "frame_len_max": u32, "requests_max": u32, "subscriptions_max": u32}),
    ),
    PING: (u64,),
    PONG: (u64,),
    CANCEL: (u32,),
    CREDIT: (u32, u32),
    GO_AWAY: (Map({"code": string, "reason": string}),),
    SUBSCRIBE: (u32, string, Map({"credit": u32})),
    SNAPSHOT: (u32, u64, u64, array),
    EVENT: (u32, u64, anything),
    RESYNC: (u32, u64),
    UNSUBSCRIBE: (u32,),
    END: (u32, ERROR),
    LOG: (
        u64,
        Map(
            {"time_us": i64, "level": u32, "target": string, "message": string},
            {"module": string, "fields": Map(), "request": string},
        ),
    ),
}
# A response of the master: its errors are other ones.
REFUSAL = Map({"exit": u32, "reason": string}, {"last_lines": array})
MASTER_SHAPES = SHAPES | {RESPONSE: (u32, lambda value: value is None or REFUSAL(value), anything)}


def depth(value):
    """How deep arrays and maps stand in each other."""
    deepest, level = 0, [value]
    while level:
        inner = []
        for item in level:
            if type(item) is list:
                inner += [element for element in item if type(element) in (list, dict)]
            elif type(item) is dict:
                inner += [element for element in item.values() if type(element) in (list, dict)]
        deepest += any(type(item) in (list, dict) for item in level)
        level = inner
    return deepest


def read(body, taken, otherwise, shapes=SHAPES):
    """The message in a frame, of one of the kinds in `taken`; any other breaks the rule `otherwise`."""
    try:
        message = msgpack.unpackb(body, strict_map_key=False)
    except (msgpack.StackError, RecursionError) as error:
        raise Broken("F4", f"arrays and maps stand too deep: {error!r}") from error
    except UnicodeDecodeError as error:
        raise Broken("F5", f"a string is not UTF-8: {error}") from error
    except (ValueError, TypeError) as error:
        raise Broken("F3", f"no MessagePack: {error!r}") from error
    if not array(message) or not message or not u64(message[0]):
        raise Broken("F3", "no array that begins with a kind")
    if depth(message) > DEPTH_MAX:
        raise Broken("F4", f"arrays and maps stand more than {DEPTH_MAX} deep in each other")
    kind = message[0]
    if kind not in taken:
        raise Broken(otherwise, f"a message of kind {kind}")
    for number, fits in enumerate(shapes[kind], start=1):
        if number >= len(message) or not fits(message[number]):
            raise Broken("F5", f"element {number} of a message of kind {kind} is missing or of another type")
    return message


def write(message):
    """A message as a whole frame."""
    body = msgpack.packb(message)
    return struct.pack(">I", len(body)) + body


class Conversation:
    """A client's side of one connection to a helper, without a socket."""

    # Before the welcome, and after it.
    FIRST = {WELCOME, GO_AWAY}
    THEN = {RESPONSE, PING, PONG, GO_AWAY, SNAPSHOT, EVENT, RESYNC, END}

    def __init__(self):
        self.frames = Frames()
        self.welcome = None
        self.go_away = None
        # What is to be written because of what was read: pongs.
        self.owed = b""
        self.waiting = set()
        # The id of each open subscription: credit, and the last event's number, None before a snapshot.
        self.subscriptions = {}
        # Those that were given up: what was on its way for them is ignored.
        self.given_up = set()

    def say(self, message):
        """The frame of a message that is sent now; remembers what it entitles the helper to."""
        kind = message[0]
        if kind == HELLO:
            # One that reads less than 4096 bytes is taken for one that reads them.
            self.frames.len_max = max(4096, min(message[2].get("frame_len_max", FRAME_LEN_MAX), FRAME_LEN_MAX))
        elif kind == REQUEST:
            self.waiting.add(message[1])
        elif kind == SUBSCRIBE:
            self.given_up.discard(message[1])
            self.subscriptions[message[1]] = [message[3]["credit"], None]
        elif kind == CREDIT and message[1] in self.subscriptions:
            self.subscriptions[message[1]][0] += message[2]
        elif kind == UNSUBSCRIBE and self.subscriptions.pop(message[1], None):
            self.given_up.add(message[1])
        return write(message)

    def feed(self, data):
        self.frames.feed(data)

    def next(self):
        """The next message for the program; None: more bytes are needed."""
        while (body := self.frames.next()) is not None:
            if self.welcome is None:
                message = read(body, self.FIRST, "H1")
            else:
                message = read(body, self.THEN, "H2")
            if self.take(message):
                return message
        return None

    def take(self, message):
        """Holds the helper to its rules; whether the program is to see the message."""
        kind = message[0]
        if kind == WELCOME:
            self.welcome = message[2]
        elif kind == GO_AWAY:
            self.go_away = message[1]
        elif kind == PING:
            self.owed += write([PONG, message[1]])
        elif kind == RESPONSE:
            if message[1] not in self.waiting:
                raise Broken("H3", f"a response to {message[1]}, which does not wait")
            self.waiting.remove(message[1])
        elif kind in (SNAPSHOT, EVENT, RESYNC, END):
            return self.take_of_subscription(kind, message)
        return True

    def take_of_subscription(self, kind, message):
        subscription = self.subscriptions.get(message[1])
        if subscription is None:
            return message[1] not in self.given_up
        if kind == END:
            del self.subscriptions[message[1]]
        elif kind == RESYNC:
            subscription[1] = None
        else:
            credit, last = subscription
            if kind == EVENT and (last is None or message[2] != last + 1):
                raise Broken("H4", f"event {message[2]} after {last}")
            if credit == 0:
                raise Broken("H5", f"subscription {message[1]} has no credit for this")
            subscription[:] = [credit - 1, message[2] if kind == EVENT else message[3]]
        return True


class Connection:
    """A socket, and what comes on it. Whoever waits longer than `patience` seconds gets a TimeoutError."""

    def __init__(self, path, patience=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(patience)
        self.socket.connect(str(path))

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """Some bytes; none at the end. Closed with something of ours unread is a reset, and an end too."""
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Client(Connection):
    """A client of a helper that does one thing after the other."""

    def __init__(self, path, name, frame_len_max=FRAME_LEN_MAX):
        super().__init__(path)
        self.conversation = Conversation()
        self.next_id = 0
        self.say([HELLO, VERSION, {"name": name, "frame_len_max": frame_len_max}])
        message = self.hear()
        if message[0] == GO_AWAY:
            raise Ended(message[1])

    def say(self, message):
        self.send(self.conversation.say(message))

    def hear(self):
        """The next message; pings are answered on the way."""
        while True:
            message = self.conversation.next()
            if self.conversation.owed:
                self.send(self.conversation.owed)
                self.conversation.owed = b""
            if message is not None:
                return message
            data = self.receive()
            if not data:
                raise Ended(self.conversation.go_away)
            self.conversation.feed(data)

    def begin(self, method, argument, deadline_ms=None):
        """Sends a request and returns its id."""
        self.next_id += 1
        self.say([REQUEST, self.next_id, method, [argument] if deadline_ms is None else [argument, deadline_ms]])
        return self.next_id

    def outcome(self, request):
        """The result of a request; what comes before it is dropped."""
        while True:
            message = self.hear()
            if message[0] == RESPONSE and message[1] == request:
                if message[2] is not None:
                    raise Failed(message[2])
                return message[3]

    def call(self, method, argument, deadline_ms=None):
        return self.outcome(self.begin(method, argument, deadline_ms))

    def subscribe(self, credit, topic="events"):
        """Opens a subscription and returns its id; what it tells comes by `hear`."""
        self.next_id += 1
        self.say([SUBSCRIBE, self.next_id, topic, {"credit": credit}])
        return self.next_id


class LogClient(Connection):
    """Writes records into the daemon's log."""

    def __init__(self, path, name):
        super().__init__(path)
        self.sequence = 0
        self.send(write([HELLO, VERSION, {"name": name}]))

    def record(self, level, target, message):
        self.sequence += 1
        record = {"time_us": time.time_ns() // 1000, "level": level, "target": target, "message": message}
        self.send(write([LOG, self.sequence, record]))


class Refused(Exception):
    """The master has refused; `exit` is the exit code that it means, `last_lines` what it adds."""

    def __init__(self, refusal):
        super().__init__(refusal["reason"])
        self.exit = refusal["exit"]
        self.last_lines = refusal.get("last_lines", [])


class ControlClient(Connection):
    """Asks the master."""

    TAKEN = {RESPONSE, NOTIFICATION}

    def __init__(self, path):
        super().__init__(path)
        self.frames = Frames(4 * 1024 * 1024)
        self.next_id = 0

    def hear(self):
        while (body := self.frames.next()) is None:
            data = self.receive()
            if not data:
                raise Ended()
            self.frames.feed(data)
        return read(body, self.TAKEN, "M1", MASTER_SHAPES)

    def call(self, method, argument):
        """The result; notifications on the way are dropped."""
        # From 1: a response with the id 0 answers no request.
        self.next_id += 1
        self.send(write([REQUEST, self.next_id, method, [argument]]))
        while True:
            message = self.hear()
            if message[0] == RESPONSE and message[1] in (0, self.next_id):
                if message[2] is not None:
                    raise Refused(message[2])
                return message[3]
