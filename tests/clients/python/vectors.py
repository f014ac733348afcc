"""tests/vectors: reads them, and checks what can be checked without a socket."""

import json
import struct
from pathlib import Path

import msgpack

import forebay_ipc as ipc

DIRECTORY = Path(__file__).resolve().parent.parent.parent / "vectors"
KIB = 1024
MIB = 1024 * KIB

# What a reader takes before the hello and after it: kinds, the rule that another kind breaks, and the
# longest frame.
FIRST = ({ipc.HELLO}, "C1", 4 * KIB)
HELPER = (
    {ipc.REQUEST, ipc.NOTIFICATION, ipc.PING, ipc.PONG, ipc.CANCEL, ipc.CREDIT, ipc.SUBSCRIBE, ipc.UNSUBSCRIBE},
    "C4",
    16 * MIB,
)
READERS = {
    "frames.json": (FIRST, HELPER),
    "to_helper.json": (FIRST, HELPER),
    "to_log.json": (({ipc.HELLO}, "L1", 4 * KIB), ({ipc.HELLO, ipc.LOG}, "L2", 2 * MIB + 64 * KIB)),
    "to_master.json": (None, ({ipc.REQUEST}, "M1", 64 * KIB)),
}
# The rules that a reader of single messages sees broken; the others are between messages.
OF_ONE_MESSAGE = {"F1", "F2", "F3", "F4", "F5", "C1", "C3", "C4", "H1", "H2", "L1", "L2", "M1"}


class Wrong(Exception):
    """A check has failed."""


def load(name):
    return json.loads((DIRECTORY / name).read_text())


def pieces(vector):
    """What is sent, piece by piece."""
    for piece in vector["hex"]:
        if isinstance(piece, str):
            yield bytes.fromhex(piece)
            continue
        for number in range(piece["times"]):
            yield bytes.fromhex(piece["hex"].replace("## ## ## ##", struct.pack(">I", number).hex(" ")))


def meant(value):
    """What JSON cannot say is spelled in a map with one key."""
    if type(value) is list:
        return [meant(item) for item in value]
    if type(value) is not dict:
        return value
    if "$int" in value:
        return int(value["$int"])
    if "$bin" in value:
        return bytes.fromhex(value["$bin"])
    if "$ext" in value:
        return msgpack.ExtType(value["$ext"][0], bytes.fromhex(value["$ext"][1]))
    return {key: meant(item) for key, item in value.items()}


def matches(expected, got):
    """Whether all is there that is expected; more is allowed at the end of arrays and in maps."""
    if type(expected) is list:
        return type(got) is list and len(got) >= len(expected) and all(map(matches, expected, got))
    if type(expected) is dict:
        return type(got) is dict and all(key in got and matches(item, got[key]) for key, item in expected.items())
    return type(expected) is type(got) and expected == got


def check(condition, what):
    if not condition:
        raise Wrong(what)


def as_listener(vector, first, then):
    """Reads what a client sends; returns the messages and the rule that they break, if one."""
    frames, messages = ipc.Frames(), []
    greeted = first is None or vector.get("after") == "hello"
    try:
        for piece in pieces(vector):
            frames.feed(piece)
            while True:
                taken, otherwise, frames.len_max = then if greeted else first
                body = frames.next()
                if body is None:
                    break
                message = ipc.read(body, taken, otherwise)
                if message[0] == ipc.HELLO and message[1] == 0:
                    raise ipc.Broken("L1" if otherwise == "L1" else "C3", "version 0")
                greeted = True
                messages.append(message)
    except ipc.Broken as broken:
        return messages, broken.rule
    return messages, None


SNAPSHOT = [ipc.SNAPSHOT, 1, 1_700_000_000_000, 41, [10]]
WELCOME = {"name": "x", "version": "1", "frame_len_max": 65536, "requests_max": 8, "subscriptions_max": 8}


def as_client(vector):
    """Reads what a helper sends, as a client that has asked for it; what comes of it, as `outcome` has it."""
    conversation = ipc.Conversation()
    conversation.say([ipc.HELLO, 1, {"name": "x"}])
    after, messages, outcome = vector.get("after"), [], "accept"
    if after is not None:
        conversation.feed(ipc.write([ipc.WELCOME, 1, WELCOME]))
        conversation.next()
    for message in vector.get("asked", []):
        conversation.say(message)
    if after == "snapshot":
        conversation.feed(ipc.write(SNAPSHOT))
        conversation.next()
    try:
        for piece in pieces(vector):
            conversation.feed(piece)
            while (message := conversation.next()) is not None:
                messages.append(message)
                error = message[2] if message[0] in (ipc.RESPONSE, ipc.END) else None
                outcome = {"error": ipc.Failed(error).code} if error else outcome
    except ipc.Broken as broken:
        return messages, broken.rule, "close", b""
    return messages, None, outcome, conversation.owed


def from_master(vector):
    """The messages, and what comes of them."""
    frames, outcome = ipc.Frames(4 * MIB), "accept"
    for piece in pieces(vector):
        frames.feed(piece)
    message = ipc.read(frames.next(), ipc.ControlClient.TAKEN, "M1", ipc.MASTER_SHAPES)
    if message[0] == ipc.RESPONSE and message[2]:
        outcome = {"error": ipc.Refused(message[2]).exit}
    return [message], outcome


def check_one(file, vector):
    meaning, outcome = meant(vector["meaning"]), vector["outcome"]
    ignored = False
    if file == "to_client.json":
        messages, rule, found, owed = as_client(vector)
        check(rule == vector["rule"], f"breaks {rule} instead of {vector['rule']}")
        check(found == outcome, f"comes to {found} instead of {outcome}")
        expected = b"".join(ipc.write(meant(reply)) for reply in vector.get("reply", []))
        check(rule is not None or owed == expected, f"is answered with {owed.hex(' ')}")
        # A ping is answered below the program, and what is for a subscription given up is dropped.
        ignored = bool(expected) or [ipc.UNSUBSCRIBE, 1] in vector.get("asked", [])
    elif file == "from_master.json":
        messages, found = from_master(vector)
        check(found == outcome, f"comes to {found} instead of {outcome}")
    else:
        messages, rule = as_listener(vector, *READERS[file])
        expected = vector["rule"] if vector["rule"] in OF_ONE_MESSAGE else None
        check(rule == expected, f"breaks {rule} instead of {expected}")
    if meaning is not None and outcome != "close" and not ignored:
        check(messages == meaning, f"means {messages} instead of {meaning}")
    if "page" in vector:
        again = b"".join(ipc.write(message) for message in meaning)
        check(again == b"".join(pieces(vector)), f"is written again as {again.hex(' ')}")


def check_all(said):
    """Checks every vector; `said` is told the rule and the name of each."""
    for path in sorted(DIRECTORY.glob("*.json")):
        for vector in load(path.name):
            try:
                check_one(path.name, vector)
            except (Wrong, ipc.Broken) as error:
                raise Wrong(f"{path.name}: {vector['name']}: {error}") from error
            # What one message does not show is left to the running daemon.
            seen = vector["rule"] is None or vector["rule"] in OF_ONE_MESSAGE or vector["rule"][0] == "H"
            said(vector["rule"] if seen else None, f"{path.name}: {vector['name']}")
