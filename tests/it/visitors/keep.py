"""Asks a server without a pause over connections that are kept, until standard input ends: by http.client and by
urllib3. Nothing is asked twice. Says when each has been answered, and in the end what was answered and what was lost,
as JSON."""

import http.client
import json
import sys
import threading
import urllib.parse

import urllib3

URL = sys.argv[1]
PLACE = urllib.parse.urlsplit(URL)
BODY = b"what is sent comes back"
CLIENTS = 3

ends = threading.Event()
begun = threading.Event()
said = {}


def by_http_client():
    connection = http.client.HTTPConnection(PLACE.hostname, PLACE.port, timeout=20)

    def ask():
        again = connection.sock is not None
        connection.request("POST", PLACE.path, BODY)
        answer = connection.getresponse()
        return answer.status, answer.read(), again

    return ask


def by_urllib3():
    pool = urllib3.HTTPConnectionPool(PLACE.hostname, PLACE.port, maxsize=1, timeout=20, retries=False)

    def ask():
        before = pool.num_connections
        answer = pool.request("POST", PLACE.path, body=BODY)
        return answer.status, answer.data, pool.num_connections == before

    return ask


def client(make, tally):
    ask = make()
    while not ends.is_set():
        try:
            status, body, again = ask()
            if status != 200 or body != BODY:
                raise ValueError(f"status {status}: {body!r}")
            tally["answered"] += 1
            tally["again"] += again
            if all(tally["answered"] for tally in said.values()):
                begun.set()
        except Exception as error:
            tally["lost"].append(repr(error))
            ask = make()


threads = []
for name, make in (("http.client", by_http_client), ("urllib3", by_urllib3)):
    said[name] = {"answered": 0, "again": 0, "lost": []}
    threads += [threading.Thread(target=client, args=(make, said[name]), daemon=True) for _ in range(CLIENTS)]
for thread in threads:
    thread.start()
begun.wait()
print("begun", flush=True)
sys.stdin.read()
ends.set()
for thread in threads:
    thread.join()
print(json.dumps(said))
