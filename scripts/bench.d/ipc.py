"""Benchmark of small calls between two processes; scripts/bench ipc starts it.

Everybody is started once and measured in turns, in an order that is rotated every round, so that a slow
minute of the machine falls on all of them. Ratios are those of one round's measurements, and the median of
the rounds: callers and answerers share the machine's processors, and others do too.
"""

import argparse
import http.client
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

# Behind all others: one of the files here has the name of a standard module.
sys.path.append(str(pathlib.Path(__file__).parent))
from command_line import positive, run_program  # noqa: E402
from machine import end, find, free_ports, scratch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
CALLERS = [1, 16, 256]
START_TIMEOUT_S = 15
# What a measurement may take beyond its seconds: its warm-up, and a machine that is busy.
PATIENCE_S = 30
TRIAL_S = 0.05

# Of which measurement to which other, with so many callers; and what is aimed at.
RATIOS = [("forebay", "raw", 1, 0.9), ("forebay", "tonic", 16, 5.0), ("forebay", "tonic", 256, 5.0)]

COMPARED = """\
One connection each, 64 bytes there and back, and so many callers that each ask again when answered.
  raw       64 bytes over a Unix socket between forebay's worker and helper, on their own loops
  blocking  the same, between two of their threads that block
  forebay   Client::call from the worker to the helper: a string as argument and as result
  tonic     a unary gRPC call over a Unix socket: protobuf in HTTP/2
  redis     ECHO over a Unix socket, pipelined: a server in C, and the `redis` crate's connection
  nats      a request through nats-server to a second client, over TCP: twice as many hops
Each of these processes has one loop in one thread, but nats-server, which uses all processors."""


class Process:
    """A program that runs until it is stopped."""

    def __init__(self, name, command, directory, environment=None):
        self.name = name
        self.log = directory / f"{name}.log"
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C reaches this program alone, which then stops the others in order.
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=directory, env=dict(os.environ, **(environment or {})), start_new_session=True,
            )

    def check(self):
        if self.process.poll() is not None:
            self.fail(f"ended with status {self.process.returncode}")

    def fail(self, why):
        sys.stderr.write(self.log.read_text(errors="replace"))
        raise SystemExit(f"{self.name} {why}")

    def stop(self):
        end(self.process)


class Peer:
    """Who is measured: with how many callers at once, and what was found, a list for each number of them."""

    def __init__(self, name, callers, measure):
        self.name = name
        self.measure = measure
        self.rates = {number: [] for number in callers}

    def wait(self, processes):
        """Until it answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            for process in processes:
                process.check()
            try:
                self.measure(min(self.rates), TRIAL_S)
                return
            except (OSError, http.client.HTTPException, subprocess.CalledProcessError) as error:
                if time.monotonic() > deadline:
                    processes[-1].fail(f"does not answer after {START_TIMEOUT_S} s: {error}")
            time.sleep(0.05)


def over_http(port, path):
    """A measurement that forebay's worker makes."""
    def measure(callers, seconds):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds + PATIENCE_S)
        try:
            connection.request("GET", path.format(callers=callers, seconds=seconds))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{path} answers {answer.status}: {text}")
        return float(text)
    return measure


def by_program(program, peer, place):
    """A measurement that a process of its own makes."""
    def measure(callers, seconds):
        command = [program, "call", peer, place, callers, seconds]
        return float(subprocess.run(
            [str(part) for part in command], check=True, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=seconds + PATIENCE_S,
        ).stdout)
    return measure


def build():
    """The daemon's program, and that of the peers."""
    report = subprocess.run(
        ["cargo", "bench", "--quiet", "--no-run", "--bench", "ipc", "--message-format", "json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout
    built = [json.loads(line) for line in report.splitlines() if line.startswith("{")]
    program = next(one["executable"] for one in built if one.get("target", {}).get("kind") == ["bench"])
    peers = TARGET / "peers"
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", "benches/peers/ipc/Cargo.toml"],
        cwd=ROOT, env=dict(os.environ, CARGO_TARGET_DIR=str(peers)), check=True,
    )
    return program, peers / "release/peer-ipc"


def start(directory, started):
    """Starts all of them; who is not installed is left out with a line that says so."""
    daemon, program = build()
    port, nats_port = free_ports(2)
    found = []

    def ready(peer, *processes):
        peer.wait(processes)
        found.append(peer)

    def run(*process):
        started.append(Process(*process))
        return started[-1]

    forebay = run("forebay", [
        daemon, "serve", "--listen", f"127.0.0.1:{port}", "--workers", 1, "--run-dir", directory / "run",
    ], directory, {"FOREBAY_BENCH_DIR": str(directory), "RUST_LOG": "warn"})
    ready(Peer("raw", [1], over_http(port, "/raw/{seconds}")), forebay)
    ready(Peer("blocking", [1], over_http(port, "/blocking/{seconds}")), forebay)
    ready(Peer("forebay", CALLERS, over_http(port, "/calls/{callers}/{seconds}")), forebay)

    place = directory / "tonic.sock"
    tonic = run("tonic", [program, "serve", "tonic", place], directory)
    ready(Peer("tonic", CALLERS, by_program(program, "tonic", place)), tonic)

    if server := find("redis-server"):
        place = directory / "redis.sock"
        redis = run("redis", [
            server, "--port", 0, "--unixsocket", place, "--save", "", "--appendonly", "no", "--dir", directory,
        ], directory)
        ready(Peer("redis", CALLERS, by_program(program, "redis", place)), redis)
    else:
        print("redis: left out, it is not installed")

    if server := find("nats-server"):
        place = f"127.0.0.1:{nats_port}"
        nats = run("nats-server", [server, "--addr", "127.0.0.1", "--port", nats_port], directory)
        wait_for_port(nats, nats_port)
        answerer = run("nats-answerer", [program, "serve", "nats", place], directory)
        ready(Peer("nats", CALLERS, by_program(program, "nats", place)), nats, answerer)
    else:
        print("nats: left out, it is not installed")
    return found


def wait_for_port(process, port):
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        process.check()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                process.fail(f"does not listen after {START_TIMEOUT_S} s")
        time.sleep(0.05)


def ratios(peers):
    by_name = {peer.name: peer for peer in peers}
    found = []
    for name, other, callers, aim in RATIOS:
        pairs = zip(by_name[name].rates[callers], by_name[other].rates[callers])
        rounds = [one / another for one, another in pairs]
        found.append({"of": name, "to": other, "callers": callers, "aim": aim,
                      "ratio": statistics.median(rounds), "rounds": rounds})
    return found


def print_table(peers, found):
    print(f"{'':10}{'calls a second, so many at once':>30}")
    print(f"{'':10}" + "".join(f"{number:>10}" for number in CALLERS))
    for peer in peers:
        cells = [f"{statistics.median(peer.rates[number]):10.0f}" if number in peer.rates else f"{'-':>10}"
                 for number in CALLERS]
        print(f"{peer.name:10}" + "".join(cells))
    print()
    for one in found:
        verdict = "reached" if one["ratio"] >= one["aim"] else "missed"
        print(f"{one['of']} to {one['to']}, {one['callers']} at once: {one['ratio']:.2f} "
              f"({min(one['rounds']):.2f} to {max(one['rounds']):.2f}); the aim, {one['aim']}, is {verdict}")


def parse_options():
    parser = argparse.ArgumentParser(
        prog="scripts/bench ipc", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Calls a second from one process to another, of forebay and of what else does that.",
        epilog=COMPARED)
    parser.add_argument("--seconds", type=positive(float), default=2.0, help="of each measurement (2)")
    parser.add_argument("--rounds", type=positive(int), default=5, help="of all; the medians are printed (5)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all measurements there too")
    return parser.parse_args()


def main():
    options = parse_options()
    started, loads = [], []
    with scratch() as directory:
        try:
            peers = start(directory, started)
            for number in range(options.rounds):
                loads.append(os.getloadavg()[0])
                first = number % len(peers)
                for callers in CALLERS:
                    for peer in peers[first:] + peers[:first]:
                        if callers in peer.rates:
                            peer.rates[callers].append(peer.measure(callers, options.seconds))
        finally:
            # Who asks ends before who answers.
            for process in reversed(started):
                process.stop()

    found = ratios(peers)
    print(COMPARED)
    print(f"\n{options.rounds} rounds of {options.seconds:g} s, {os.cpu_count()} processors, load average "
          f"{min(loads):.1f} to {max(loads):.1f}, of which this is a part; medians\n")
    print_table(peers, found)
    if options.json:
        report = {
            "rounds": options.rounds, "seconds": options.seconds, "processors": os.cpu_count(),
            "load_averages": loads, "ratios": found,
            "peers": [{"name": peer.name, "calls_per_s": peer.rates} for peer in peers],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
