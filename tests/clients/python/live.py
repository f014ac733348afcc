"""Checks against a running daemon: what the page promises, and what becomes of whoever breaks its rules."""

import time

import forebay_ipc as ipc
import vectors
from vectors import check, matches

NAME = "a client in Python"
# What the page allows ten seconds for must not take much longer, nor much less.
OWING_MIN, OWING_MAX = 8, 25
MANY = 1_000_000
CREDIT_LATER = 9


def expect(expected, got, what):
    check(matches(expected, got), f"{what}: {got} instead of {expected}")


def failure(call, *arguments):
    """The error that a call fails with."""
    try:
        result = call(*arguments)
    except (ipc.Failed, ipc.Refused) as error:
        return error
    raise vectors.Wrong(f"{arguments} has the result {result}")


# The gateway.


def check_nest(run_dir, word, said):
    with ipc.Client(run_dir / "ipc/nest.sock", NAME) as client:
        check_calls(client, said)
        check_events(client, said)
    check_log(run_dir, word, said)
    check_control(run_dir, said)
    for vector in vectors.load("to_log.json"):
        play(run_dir / "ipc/log.sock", vector, end_of_log)
        said(vector["rule"], f"to the log: {vector['name']}")
    for vector in vectors.load("to_master.json"):
        # The others would stop the daemon, or take their time.
        if vector["outcome"] != "accept" or b"status" in b"".join(vectors.pieces(vector)):
            play(run_dir / "control.sock", vector, end_of_control)
            said(vector["rule"], f"to the master: {vector['name']}")
    with ipc.ControlClient(run_dir / "control.sock") as control:
        check(control.call("status", {})["state"] == "serving", "the daemon does not serve any more")
    said(None, "after all of that the daemon serves")


def check_calls(client, said):
    welcome = client.conversation.welcome
    expect({"frame_len_max": 16 * vectors.MIB, "requests_max": 1024, "subscriptions_max": 4096}, welcome, "welcome")
    said(None, f"welcomed by {welcome['name']}")
    thermostats = client.call("list", {})
    check(len(thermostats) > 0, "there is no thermostat")
    one = thermostats[0]["id"]
    fields = client.call("get", {"id": one})
    expect(thermostats[0]["fields"]["device_id"], fields["device_id"], "get")
    said(None, f"list has {len(thermostats)} thermostats, and get one of them")
    unknown = failure(client.call, "get", {"id": "nobody"})
    expect(["failed", {"unknown_thermostat": {"id": "nobody"}}], [unknown.code, unknown.data], "an unknown one")
    said(None, f"an unknown one: {unknown}")
    late = failure(client.call, "list", {}, time.monotonic_ns() // 1_000_000 - 1)
    expect("deadline_exceeded", late.code, "a deadline that has passed")
    client.call("list", {}, time.monotonic_ns() // 1_000_000 + 60_000)
    said(None, "a deadline that has passed is refused, and one that has not is kept")
    client.say([ipc.PING, 1 << 63])
    expect([ipc.PONG, 1 << 63], client.hear(), "a ping")
    said(None, "a ping is answered")


def check_events(client, said):
    one = client.call("list", {})[0]["id"]

    def turn(degrees):
        client.call("set", {"id": one, "fields": {"target_temperature_c": degrees}})

    id = client.subscribe(MANY)
    snapshot = client.hear()
    expect([ipc.SNAPSHOT, id], snapshot, "a snapshot")
    check(any("thermostat" in event for event in snapshot[4]), "the snapshot has no thermostat")
    # What others say in between is for them.
    request = client.begin("set", {"id": one, "fields": {"target_temperature_c": 21.5}})
    event, is_answered = None, False
    while event is None or not is_answered:
        message = client.hear()
        is_answered |= message[:2] == [ipc.RESPONSE, request]
        told = message[3].get("thermostat") if message[0] == ipc.EVENT else None
        if told and told["id"] == one and told["fields"]["target_temperature_c"] == 21.5:
            event = message
    said(None, f"a subscription: its snapshot, and event {event[2]}, which a set has caused")
    client.say([ipc.UNSUBSCRIBE, id])
    poor = client.subscribe(1)
    expect([ipc.SNAPSHOT, poor], client.hear(), "a snapshot")
    turn(22.5)
    turn(23.5)
    client.say([ipc.CREDIT, poor, MANY])
    missed = client.hear()
    while missed[0] != ipc.RESYNC:
        # The second set is answered; what it changes may come only then.
        expect([ipc.SNAPSHOT], missed, "instead of an event without credit")
        missed = client.hear()
    expect([ipc.SNAPSHOT, poor], client.hear(), "after a resync")
    said(None, f"without credit {missed[2]} events were missed: a resync and a snapshot")


def check_log(run_dir, word, said):
    with ipc.LogClient(run_dir / "ipc/log.sock", NAME) as log:
        log.record(3, "clients", f"said in Python: {word}")
        log.record(2, "clients", f"warned in Python: {word}")
    said(None, "two records for the log")


def check_control(run_dir, said):
    with ipc.ControlClient(run_dir / "control.sock") as control:
        status = control.call("status", {})
        expect({"state": "serving"}, status, "status")
        said(None, f"status: {status['state']}")
        refused = failure(control.call, "restart", {"helper": "nobody"})
        expect(1, refused.exit, "restart of nobody")
        said(None, f"refused: {refused}")


# The ends of connections: what must have been heard before each.


def end_of_helper(heard):
    check(heard, "closed without go-away")
    message = ipc.read(heard[-1], {ipc.GO_AWAY}, "H2")
    expect("rule_broken", message[1]["code"], "go-away")
    check(message[1]["reason"], "go-away has no reason")


def end_of_log(heard):
    check(not heard, "the log has answered")


def end_of_control(heard):
    check(heard, "closed without a response with the id 0")
    message = ipc.read(heard[-1], {ipc.RESPONSE}, "M1", ipc.MASTER_SHAPES)
    expect([ipc.RESPONSE, 0, {"exit": 64}, None], message, "the last response")
    check(message[2]["reason"], "the last response has no reason")


class Wire(ipc.Connection):
    """Says anything, and hears frames."""

    def __init__(self, path):
        super().__init__(path)
        self.frames = ipc.Frames()

    def send(self, data):
        try:
            super().send(data)
        except (BrokenPipeError, ConnectionResetError):
            # Whoever was closed in the middle hears why.
            pass

    def hear(self):
        """The next frame's content; None at the end."""
        while (body := self.frames.next()) is None:
            data = self.receive()
            if not data:
                return None
            self.frames.feed(data)
        return body

    def hear_to_the_end(self):
        heard = []
        while (body := self.hear()) is not None:
            heard.append(body)
        return heard


def greeted(path):
    wire = Wire(path)
    wire.send(ipc.write([ipc.HELLO, 1, {"name": NAME}]))
    return wire


def play(path, vector, end):
    """Sends a vector to a running daemon, and checks what comes of it."""
    is_log = path.name == "log.sock"
    is_control = path.name == "control.sock"
    try:
        with Wire(path) as wire:
            if vector.get("after") == "hello":
                wire.send(ipc.write([ipc.HELLO, 1, {"name": NAME}]))
                if not is_log:
                    ipc.read(wire.hear(), {ipc.WELCOME}, "H1")
            wire.send(b"".join(vectors.pieces(vector)))
            if vector["outcome"] == "close":
                end(wire.hear_to_the_end())
            elif not is_log:
                # Whoever takes it, takes this too.
                wire.send(ipc.write([ipc.REQUEST, 99, "status", [{}]] if is_control else [ipc.PING, 99]))
                expect_replies(wire, vector, is_control)
    except (vectors.Wrong, ipc.Broken, TimeoutError) as error:
        raise vectors.Wrong(f"{vector['name']}: {error!r}") from error


def expect_replies(wire, vector, is_control):
    """All that is expected comes, in whatever order, and nothing else where something is expected."""
    last = [ipc.RESPONSE, 99] if is_control else [ipc.PONG, 99]
    expected = [*vectors.meant(vector.get("reply", [])), last]
    shapes = ipc.MASTER_SHAPES if is_control else ipc.SHAPES
    while expected:
        body = wire.hear()
        check(body is not None, f"closed, and {expected} has not come")
        message = ipc.read(body, ipc.Conversation.FIRST | ipc.Conversation.THEN, "H2", shapes)
        found = next((one for one in expected if matches(one, message)), None)
        check(found is not None or "reply" not in vector, f"{message} instead of {expected}")
        if found is not None:
            expected.remove(found)


# The tests' application.


def check_keeper(run_dir, said):
    path = run_dir / "ipc/keeper.sock"
    with ipc.Client(path, NAME) as client:
        check_credit(client, said)
        check_cancel(client, said)
    for file in ("frames.json", "to_helper.json"):
        for vector in vectors.load(file):
            play(path, vector, end_of_helper)
            said(vector["rule"], f"to a helper: {vector['name']}")
    check_too_much_unread(path, said)
    check_owing(run_dir, said)
    with ipc.Client(path, NAME) as client:
        check(client.call("again", {"number": 4, "ms": 0}) == 4, "the helper answers something else")
    said(None, "after all of that the helper answers")


def check_credit(client, said):
    id = client.subscribe(2)
    _, _, epoch, number, _ = client.hear()
    request = client.begin("publish", {"events": 5, "len": 1})
    expect([ipc.EVENT, id, number + 1], client.hear(), "an event, before the answer")
    expect([ipc.RESPONSE, request], client.hear(), "nothing more without credit")
    client.say([ipc.CREDIT, id, 2])
    expect([ipc.RESYNC, id, 4], client.hear(), "the count of the missed")
    expect([ipc.SNAPSHOT, id, epoch, number + 5], client.hear(), "a snapshot after it")
    request = client.begin("publish", {"events": 1, "len": 1})
    expect([ipc.EVENT, id, number + 6], client.hear(), "the next event")
    expect([ipc.RESPONSE, request], client.hear(), "its answer")
    client.say([ipc.CREDIT, id, CREDIT_LATER])
    expect([ipc.RESPONSE, client.begin("again", {"number": 1, "ms": 0})], client.hear(), "nothing was missed")
    client.say([ipc.UNSUBSCRIBE, id])
    expect([ipc.RESPONSE, client.begin("publish", {"events": 1, "len": 1})], client.hear(), "nothing more comes")
    said(None, "credit: so many messages come, then a resync and a snapshot; after unsubscribe nothing")


def check_cancel(client, said):
    request = client.begin("slow", {"number": 1, "ms": 60_000})
    client.say([ipc.CANCEL, request])
    cancelled = failure(client.outcome, request)
    expect("cancelled", cancelled.code, "a cancelled request")
    said(None, f"a request is given up: {cancelled}")


def check_too_much_unread(path, said):
    """140 answers of a million bytes, which come when all are asked for: a helper that has too much to
    write does not read on."""
    with greeted(path) as wire:
        asked = (ipc.write([ipc.REQUEST, id, "long", [{"len": MANY, "ms": 500}]]) for id in range(140))
        wire.send(b"".join(asked))
        # Not a byte is read before the end: it is the helper that knows.
        wait_for_fewer(path.parent.parent, 1, OWING_MIN)
        said("C11", "whoever is owed more than 128 MiB that it does not read is closed at once")


def connections(run_dir):
    with ipc.ControlClient(run_dir / "control.sock") as control:
        helpers = control.call("status", {})["helpers"]
    return next(helper["connections"] for helper in helpers if helper["name"] == "keeper")


def wait_for_fewer(run_dir, most, patience):
    """Waits until the helper has at most so many connections: the master's clients, the worker."""
    deadline = time.monotonic() + patience
    while connections(run_dir) > most:
        check(time.monotonic() < deadline, f"after {patience} s the helper has more than {most} connections")
        time.sleep(0.02)


def check_owing(run_dir, said):
    """Whoever owes something for ten seconds is closed: all of them at the same time."""
    path, began = run_dir / "ipc/keeper.sock", time.monotonic()
    lazy = greeted(path)
    lazy.send(b"".join(ipc.write([ipc.REQUEST, id, "long", [{"len": MANY, "ms": 0}]]) for id in range(8)))
    silent, half, control, idle = Wire(path), greeted(path), Wire(run_dir / "control.sock"), greeted(path)
    half.send(bytes.fromhex("00 00 00 10 94 00"))
    patient = Wire(run_dir / "ipc/log.sock")
    patient.send(bytes.fromhex("00 00 00 10 93 03"))
    for rule, wire, end, what in [
        ("C2", silent, end_of_helper, "no hello"),
        ("C9", half, end_of_helper, "half a frame"),
        ("M2", control, end_of_control, "silence towards the master"),
    ]:
        try:
            end(wire.hear_to_the_end())
        except vectors.Wrong as error:
            raise vectors.Wrong(f"{rule}, {what}: {error}") from error
        took = time.monotonic() - began
        check(OWING_MIN < took < OWING_MAX, f"{rule}, {what}: closed after {took:.1f} s")
        said(rule, f"{what}: closed after ten seconds")
    # The worker's, the idle one.
    wait_for_fewer(run_dir, 2, OWING_MAX)
    lazy.hear_to_the_end()
    said("C10", "what was sent is not read: closed after ten seconds")
    ipc.read(idle.hear(), {ipc.WELCOME}, "H1")
    idle.send(ipc.write([ipc.PING, 5]))
    expect([ipc.PONG, 5], ipc.read(idle.hear(), {ipc.PONG}, "H2"), "an idle one")
    patient.socket.setblocking(False)
    try:
        check(patient.socket.recv(1) != b"", "the log has closed somebody who is silent")
    except BlockingIOError:
        pass
    said(None, "who owes nothing may be silent, and to the log everybody")
    for wire in (lazy, silent, half, control, idle, patient):
        wire.close()


# Somebody who may not.


def check_stranger(run_dir, said):
    with Wire(run_dir / "ipc/keeper.sock") as wire:
        heard = wire.hear_to_the_end()
        check(heard, "closed without go-away")
        expect([ipc.GO_AWAY, {"code": "not_allowed"}], ipc.read(heard[-1], {ipc.GO_AWAY}, "H1"), "a helper")
    with Wire(run_dir / "ipc/log.sock") as wire:
        check(wire.hear_to_the_end() == [], "the log has answered")
    said("U1", "another user is turned away by a helper, with the reason, and by the log")
    with Wire(run_dir / "control.sock") as wire:
        heard = wire.hear_to_the_end()
        check(heard, "closed without a response")
        refusal = ipc.read(heard[-1], {ipc.RESPONSE}, "M1", ipc.MASTER_SHAPES)
        expect([ipc.RESPONSE, 0, {"exit": 77}, None], refusal, "the master")
    said("U2", f"and by the master: {refusal[2]['reason']}")
