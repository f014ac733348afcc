"""A helper in Python: what a kilowatt-hour costs, and the news when that changes. It takes the package msgpack.

The daemon starts it (`[helper.tariff] command = ["python3", "examples/tariff.py"]`) with its socket as descriptor 3;
ipc-protocol.md says what is spoken there. Requests are answered at once, so there is none to cancel."""
import asyncio, msgpack, os, signal, socket, time

REQUEST, RESPONSE, NOTIFICATION, HELLO, WELCOME, PING, PONG, CANCEL = range(8)
CREDIT, GO_AWAY, SUBSCRIBE, SNAPSHOT, EVENT, RESYNC, UNSUBSCRIBE, END = range(8, 16)
FRAME_LEN_MAX, SUBSCRIPTIONS_MAX, UNREAD_MAX, OWING_MAX_S = 65536, 64, 1 << 20, 10
LIMITS = {"frame_len_max": FRAME_LEN_MAX, "requests_max": 64, "subscriptions_max": SUBSCRIPTIONS_MAX}
EPOCH, tariff, clients = int(time.time() * 1000), {"cents": 31.0, "sequence": 0}, set()

def change(cents):
    rule(cents > 0, "a price is above 0")
    tariff.update(cents=float(cents), sequence=tariff["sequence"] + 1)
    for client in clients:
        client.tell_subscribers()

METHODS = {"price": lambda kwh: kwh * tariff["cents"], "change": change}
def answer(method, params):
    if method not in METHODS:
        return {"code": "no_method", "message": "there are: " + ", ".join(METHODS)}, None
    try:
        return None, METHODS[method](**params[0])
    except (TypeError, ValueError) as error:
        return {"code": "failed" if isinstance(error, ValueError) else "bad_params", "message": str(error)}, None

def rule(is_kept, words):
    if not is_kept:
        raise ValueError(words)

class Client:
    def __init__(self, writer):
        self.writer, self.subscriptions, self.is_greeted = writer, {}, False

    def send(self, *message):
        body = msgpack.packb(message)
        self.writer.write(len(body).to_bytes(4, "big") + body)

    def handle(self, kind, id, *rest):
        rule(self.is_greeted == (kind != HELLO) and (kind != HELLO or id > 0), "hello comes first, once, above 0")
        if kind == HELLO:
            self.is_greeted = True
            self.send(WELCOME, 1, {"name": os.environ["FOREBAY_ROLE"], "version": "1.0", **LIMITS})
        elif kind == REQUEST:
            self.send(RESPONSE, id, *answer(*rest[:2]))
        elif kind == NOTIFICATION:
            answer(id, rest[0])
        elif kind == PING:
            self.send(PONG, id)
        elif kind == SUBSCRIBE and rest[0] == "events":
            rule(id not in self.subscriptions and len(self.subscriptions) < SUBSCRIPTIONS_MAX, "one too many")
            self.subscriptions[id] = {"credit": rest[1]["credit"], "told": None}
        elif kind == SUBSCRIBE:
            self.send(END, id, {"code": "no_topic", "message": "there is: events"})
        elif kind == CREDIT and id in self.subscriptions:
            self.subscriptions[id]["credit"] += rest[0]
        elif kind == UNSUBSCRIBE:
            self.subscriptions.pop(id, None)
        else:
            rule(kind in (PONG, CANCEL, CREDIT), f"kind {kind}, which no helper takes")
        self.tell_subscribers()

    def tell_subscribers(self):
        now, cents = tariff["sequence"], tariff["cents"]
        for id, known in self.subscriptions.items():
            told, unread = known["told"], self.writer.transport.get_write_buffer_size()
            if told != now and known["credit"] > 0 and unread < UNREAD_MAX:
                if told not in (None, now - 1):
                    self.send(RESYNC, id, now - told)
                self.send(*([EVENT, id, now, cents] if told == now - 1 else [SNAPSHOT, id, EPOCH, now, [cents]]))
                known.update(told=now, credit=known["credit"] - 1)

async def serve(reader, writer):
    clients.add(client := Client(writer))
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(4), "big")
            rule(0 < length <= (FRAME_LEN_MAX if client.is_greeted else 4096), f"a frame of {length} bytes")
            client.handle(*msgpack.unpackb(await asyncio.wait_for(reader.readexactly(length), OWING_MAX_S)))
            await asyncio.wait_for(writer.drain(), OWING_MAX_S)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # It has hung up.
    except Exception as error:
        print("a client has broken a rule:", error, flush=True)
        client.send(GO_AWAY, {"code": "rule_broken", "reason": str(error)})
    finally:
        clients.discard(client)
        writer.close()

async def main():
    server = await asyncio.start_unix_server(serve, sock=socket.socket(fileno=3))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, (leaving := asyncio.Event()).set)
    await leaving.wait()
    server.close()
    for client in clients:
        client.send(GO_AWAY, {"code": "leaving", "reason": "it was told to end"})
    await asyncio.sleep(0.2 if clients else 0)

asyncio.run(main())
