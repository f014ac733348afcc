"""Benchmark of a minimal HTTP answer; scripts/bench http starts it.

The peers run at the same time and are loaded in turns, in an order that is rotated every round, so that
a slow minute of the machine falls on all of them. Ratios are those of one round's measurements, and the median
of the rounds. The load generator shares the machine's processors: compare the ratios, and the CPU time per
request, rather than the rates themselves.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import socket
import statistics
import sys
import time

# Behind all others: one of the files here has the name of a standard module.
sys.path.append(str(pathlib.Path(__file__).parent))
from command_line import positive, run_program  # noqa: E402
from http_peers import LOAD_THREADS, make  # noqa: E402
from machine import scratch  # noqa: E402

WARM_UP_S = 1
REFERENCE = "nginx"
PIPELINE = """
init = function(args)
    local one = wrk.format("GET", "/")
    whole = string.rep(one, 16)
end
request = function() return whole end
"""
# Connections of the spread, and the workers that share them.
SPREAD = 4000
SPREAD_WORKERS = 4
SPREAD_PAUSE_S = 0.0005


class Trial:
    """What is measured of whom."""

    def __init__(self, title, peers, connections, options=(), logged=False):
        self.title = title
        self.peers = peers
        self.connections = connections
        self.options = options
        self.logged = logged


def trials(directory):
    script = directory / "pipeline.lua"
    script.write_text(PIPELINE)
    everyone = ["forebay", "nginx", "haproxy", "actix", "axum", "node"]
    few = ["forebay", "nginx"]
    return {
        "hello": [Trial(f"keep-alive, {count} connections", everyone, count) for count in (64, 256)],
        "pipelined": [Trial("pipelined, 16 deep, 64 connections", ["forebay", "nginx", "actix", "axum"], 64,
                            ("-s", str(script)))],
        "logged": [Trial("with an access log, 64 connections", few, 64, logged=True)],
        "accepts": [Trial("a connection for each request, 64 at a time", few, 64, ("-H", "Connection: close"))],
    }


@contextlib.contextmanager
def running(names, directory, workers, logged=False):
    peers = [peer for peer in (make(name, directory, workers, logged) for name in names) if peer]
    try:
        for peer in peers:
            peer.start()
        yield peers
    finally:
        for peer in peers:
            peer.stop()


def measure(trial, options):
    with scratch() as directory, running(trial.peers, directory, options.workers, trial.logged) as peers:
        for peer in peers:
            peer.load(trial.connections, WARM_UP_S, *trial.options)
        for number in range(options.rounds):
            first = number % len(peers)
            for peer in peers[first:] + peers[:first]:
                peer.rounds.append(peer.load(trial.connections, options.seconds, *trial.options))
        return summarize(peers)


def summarize(peers):
    reference = next((peer.rounds for peer in peers if peer.name == REFERENCE), None)

    def median(peer, key):
        return statistics.median(one[key] for one in peer.rounds)

    def ratio(peer, key):
        return reference and statistics.median(one[key] / other[key] for one, other in zip(peer.rounds, reference))

    return [{
        "name": peer.name,
        "requests_per_s": median(peer, "requests_per_s"),
        "ratio": ratio(peer, "requests_per_s"),
        "cpu_us_per_request": median(peer, "cpu_us_per_request"),
        "cpu_ratio": ratio(peer, "cpu_us_per_request"),
        "p99_us": median(peer, "p99_us"),
        "errors": sum(one["errors"] for one in peer.rounds),
        "rounds": peer.rounds,
    } for peer in peers]


def print_table(title, rows):
    print(f"\n{title}\n{'':10} {'req/s':>10} {'to ' + REFERENCE:>9} {'CPU us/req':>11} {'to ' + REFERENCE:>9} "
          f"{'p99 ms':>8} {'errors':>7}")
    for row in rows:
        ratio, cpu_ratio = (f"{row[key]:.2f}" if row[key] else "-" for key in ("ratio", "cpu_ratio"))
        print(f"{row['name']:10} {row['requests_per_s']:10.0f} {ratio:>9} {row['cpu_us_per_request']:11.1f} "
              f"{cpu_ratio:>9} {row['p99_us'] / 1000:8.2f} {row['errors']:7}", flush=True)


def spread(rounds):
    """How evenly connections are shared, in a burst and paced: the most of a worker to the fewest."""
    resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
    found = []
    with scratch() as directory, running(["forebay", "nginx"], directory, SPREAD_WORKERS) as peers:
        for peer in peers:
            row = {"name": peer.name, "burst": [], "paced": []}
            for _ in range(rounds):
                row["burst"].append(open_all(peer, 0))
                row["paced"].append(open_all(peer, SPREAD_PAUSE_S))
            found.append(row)
    return found


def open_all(peer, pause_s):
    connections = []
    try:
        for _ in range(SPREAD):
            connections.append(socket.create_connection(("127.0.0.1", peer.port)))
            if pause_s:
                time.sleep(pause_s)
        deadline = time.monotonic() + 10
        while sum(counts := peer.connections()) < SPREAD:
            if time.monotonic() > deadline:
                peer.fail(f"has taken {sum(counts)} of {SPREAD} connections")
            time.sleep(0.05)
        return max(counts) / min(counts) if len(counts) == SPREAD_WORKERS else float("inf")
    finally:
        for connection in connections:
            connection.close()
        while peer.connections():
            time.sleep(0.05)


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/bench http", description=(
        'Compares "Hello, World!" from forebay, from axum and actix-web programs, and from nginx, haproxy and a '
        'cluster of node.'))
    parser.add_argument("what", nargs="*", help="hello, pipelined, logged, accepts, spread (all)")
    parser.add_argument("--seconds", type=positive(int), default=4, help="of load for a peer in a round (4)")
    parser.add_argument("--rounds", type=positive(int), default=5, help="of all peers; the medians are printed (5)")
    parser.add_argument("--workers", type=positive(int), default=2, help="processes or threads of a peer (2)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all measurements there too")
    options = parser.parse_args()
    known = ["hello", "pipelined", "logged", "accepts", "spread"]
    if unknown := set(options.what) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
    options.what = options.what or known
    return options


def main():
    options = parse_options()
    report = {"processors": os.cpu_count(), **{key: getattr(options, key) for key in ["rounds", "seconds", "workers"]}}
    print(f"{options.rounds} rounds of {options.seconds} s, {options.workers} workers, {os.cpu_count()} processors, "
          f"wrk with {LOAD_THREADS} threads; medians")
    with scratch() as directory:
        known = trials(directory)
        for what in options.what:
            for trial in known.get(what, []):
                report[trial.title] = measure(trial, options)
                print_table(trial.title, report[trial.title])
        if "spread" in options.what:
            report["spread"] = spread(options.rounds)
            print(f"\n{SPREAD} connections on {SPREAD_WORKERS} workers, the most of one to the fewest")
            for row in report["spread"]:
                print(f"{row['name']:10} in a burst {statistics.median(row['burst']):.3f} (at worst "
                      f"{max(row['burst']):.3f}), paced {statistics.median(row['paced']):.3f} "
                      f"(at worst {max(row['paced']):.3f})")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
