"""Benchmark of one helper's events to many subscriptions; scripts/bench fanout starts it.

A daemon with four workers of 2,500 subscriptions each; its helper publishes events of 64 bytes, faster and
faster. A delivery is an event that one subscription's reader has got. In every second round one subscription of
each worker is never read.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUBSCRIPTIONS = 10_000
START_TIMEOUT_S = 30
WARM_UP_S = 0.5


def build():
    command = ["cargo", "bench", "--bench", "fanout", "--no-run", "--all-features", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "fanout":
            return message["executable"]
    raise SystemExit("cargo has built no benchmark")


class Daemon:
    def __init__(self, program, stopped):
        self.directory = tempfile.TemporaryDirectory(prefix="forebay-fanout-")
        self.program = program
        self.place = ["--run-dir", f"{self.directory.name}/run"]
        environment = dict(os.environ, **({"FOREBAY_BENCH_STOPPED": "1"} if stopped else {}))
        self.log = open(f"{self.directory.name}/log", "w+")
        serve = [program, "serve", *self.place, "--listen", "127.0.0.1:0", "--workers", "4"]
        self.process = subprocess.Popen(
            serve, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment, start_new_session=True
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run([program, "status", *self.place], capture_output=True).returncode != 0 or not self.serves():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.log.seek(0)
                raise SystemExit(f"it does not serve:\n{self.log.read()}")
            time.sleep(0.05)

    def serves(self):
        status = subprocess.run([self.program, "status", "--json", *self.place], capture_output=True).stdout
        return json.loads(status)["state"] == "serving"

    def call(self, method, **params):
        words = [self.program, "call", "source", json.dumps({"method": method, "params": params}), *self.place]
        return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)

    def measure(self, pace, seconds):
        """Deliveries a second, and which part of the events was left out."""
        self.call("pace", events=pace)
        time.sleep(WARM_UP_S)
        before, began = self.call("total"), time.monotonic()
        time.sleep(seconds)
        after, took = self.call("total"), time.monotonic() - began
        self.call("pace", events=0)
        time.sleep(WARM_UP_S)
        delivered, missed = (after[key] - before[key] for key in ("delivered", "missed"))
        return delivered / took, missed / max(delivered + missed, 1)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.directory.cleanup()


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench fanout", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (2)")
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements (3)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    program = build()
    paces = [50, 100, 150, 200, 300]
    found = {stopped: {pace: [] for pace in paces} for stopped in (False, True)}
    for _ in range(options.rounds):
        for stopped in (False, True):
            daemon = Daemon(program, stopped)
            try:
                for pace in paces:
                    found[stopped][pace].append(daemon.measure(pace, options.seconds))
            finally:
                daemon.stop()
    print(f"{SUBSCRIPTIONS:,} subscriptions in 4 workers; medians of {options.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'events/s':>9} {'offered/s':>12} {'delivered/s':>12} {'left out':>9}   {'one stopped':>12} {'left out':>9}")
    figures = []
    for pace in paces:
        (all_rate, all_missed), (rest_rate, rest_missed) = (
            [statistics.median(values) for values in zip(*found[stopped][pace])] for stopped in (False, True)
        )
        offered = pace * SUBSCRIPTIONS
        print(f"{pace:>9} {offered:>12,} {all_rate:>12,.0f} {all_missed:>9.2%}   {rest_rate:>12,.0f} {rest_missed:>9.2%}")
        figures.append({"events": pace, "delivered": all_rate, "missed": all_missed, "one_stopped": rest_rate,
                        "one_stopped_missed": rest_missed})
    best = max(figures, key=lambda figure: figure["delivered"])
    print(f"\nmost deliveries: {best['delivered']:,.0f}/s (aim: 1,000,000); "
          f"with one stopped {best['one_stopped'] / best['delivered'] - 1:+.1%} (aim: -5 % at most)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
