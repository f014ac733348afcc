"""What the log does when somebody is killed or stands still, and how often it is woken."""

import os
import random
import re
import signal
import statistics
import subprocess
import tempfile
import time

from logging_daemon import LINE_LEN, Daemon, length, wait_for
from machine import find, free_ports, scratch

# What a producer logs before it dies: less than its ring holds.
LAST_WORDS = 3000
# What each of the producers logs while the log helper is killed.
UNDER_FIRE = 30_000
PRODUCERS = 4
CONNECTIONS = 8
ASKED_PER_S = 2000
PERIOD_RECORDS = 10
# After so long without a record no more will come.
SILENCE_S = 3
PERIODS_PER_S = 2000


class Numbers:
    """The file's records by producer and number: how often each is there."""

    def __init__(self, file):
        self.file = open(file, "rb")
        self.rest = b""
        self.counts = {}
        self.read_lately = 0
        self.refused = 0

    def read(self):
        text = self.rest + self.file.read()
        text, _, self.rest = text.rpartition(b"\n")
        self.read_lately = len(text)
        # Both begin with what is found fast.
        for producer, number in re.findall(rb"\] (\d):(\d{8}) GET", text):
            counts = self.of(int(producer), int(number) + 1)
            counts[int(number)] += 1
        self.refused += sum(int(number) for number in re.findall(rb"\] (\d+) records? lost here", text))
        return self

    def of(self, producer, end):
        """Of one producer, for numbers up to this one at least."""
        counts = self.counts.setdefault(producer, bytearray())
        if len(counts) < end:
            counts.extend(bytes(2 * end - len(counts)))
        return counts

    def missing(self, expected):
        return sum(self.of(producer, numbers.stop).count(0, numbers.start, numbers.stop) for producer, numbers in expected)

    def result(self, expected):
        """What is missing beyond what was refused and told so, and what is there twice."""
        return {"records": sum(len(numbers) for _, numbers in expected), "refused": self.refused,
                "lost": self.missing(expected) - self.refused,
                "twice": sum(max(count - 1, 0) for counts in self.counts.values() for count in counts)}


def with_daemon(program, place, transport, workers, use_it, port=0):
    with scratch(place) as directory:
        daemon = Daemon(program, directory, transport, workers, port)
        try:
            return use_it(daemon)
        finally:
            daemon.stop()


def settle(numbers, expected):
    """Waits until all is there, or nothing has come for so long that it will not."""
    since = time.monotonic()
    while numbers.read().missing(expected) and time.monotonic() - since < SILENCE_S:
        if numbers.read_lately:
            since = time.monotonic()
        time.sleep(0.005)


def kill_producers(program, place, transport, rounds):
    """Each logs, and kills itself right after the last call."""
    def trial(daemon):
        numbers, expected = None, []
        for number in range(rounds):
            slot = number % daemon.workers
            wait_for("all workers", lambda: daemon.status().get("state") == "serving")
            first = daemon.next
            daemon.order("Die", LAST_WORDS, slot=slot, reports=0)
            expected.append((slot, range(first, daemon.next)))
            wait_for("the file", daemon.file.exists)
            numbers = numbers or Numbers(daemon.file)
            settle(numbers, expected[-1:])
        return numbers.result(expected)
    return with_daemon(program, place, transport, 2, trial)


def kill_helpers(program, place, transport, rounds):
    """The log helper is killed at any time while all producers log as fast as there is room."""
    def trial(daemon):
        daemon.order("Log", UNDER_FIRE)
        numbers = Numbers(daemon.file)
        expected = [(slot, range(daemon.next)) for slot in range(PRODUCERS)]
        settle(numbers, expected)
        for _ in range(rounds):
            helper = wait_for("a log helper", lambda: daemon.helper("log"))
            first, before = daemon.next, length(daemon.file)
            order = daemon.start_order("Log", UNDER_FIRE)
            wait_for("records", lambda: length(daemon.file) > before)
            # All of them take about so long.
            time.sleep(random.uniform(0, 0.05))
            os.kill(helper, signal.SIGKILL)
            daemon.finish_order(order)
            records = [(slot, range(first, daemon.next)) for slot in range(PRODUCERS)]
            settle(numbers, records)
            expected += records
        return numbers.result(expected)
    return with_daemon(program, place, transport, PRODUCERS, trial)


def latency(program, place, rounds, seconds):
    """The 99th percentile of requests that log a line, with the log helper running and stopped, in turns."""
    [port] = free_ports(1)

    def trial(daemon):
        helper = daemon.helper("log")
        ask(port, 1)
        pairs = []
        for number in range(rounds):
            pair = {}
            for stopped in (False, True) if number % 2 else (True, False):
                os.kill(helper, signal.SIGSTOP if stopped else signal.SIGCONT)
                try:
                    pair[stopped] = ask(port, seconds)
                finally:
                    os.kill(helper, signal.SIGCONT)
            pairs.append(pair)
        return {
            "running_ms": statistics.median(pair[False] for pair in pairs),
            "stopped_ms": statistics.median(pair[True] for pair in pairs),
            "ratio": statistics.median(pair[True] / pair[False] for pair in pairs),
            "rounds": [[pair[False], pair[True]] for pair in pairs],
        }
    return with_daemon(program, place, "ring", 2, trial, port)


def ask(port, seconds):
    """At a fixed rate: who asks as fast as they are answered measures the scheduler's turns, not the answers."""
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"--rps={ASKED_PER_S // CONNECTIONS}",
                   f"-D{max(1, round(seconds))}", f"--log-file={log.name}", f"http://127.0.0.1:{port}/"]
        subprocess.run(command, check=True, capture_output=True)
        answers = [line.split() for line in log.read().splitlines()]
    took_us = sorted(int(answer[2]) for answer in answers if answer[1] == b"200")
    if len(took_us) < len(answers) or len(took_us) < ASKED_PER_S * seconds / 2:
        raise SystemExit(f"of {len(answers)} requests {len(took_us)} were answered")
    return took_us[len(took_us) * 99 // 100] / 1000


def wake_ups(program, place, seconds):
    """Of one producer with ten records every 500 µs: wake-ups of the log helper, and system calls."""
    def trial(daemon):
        count = int(seconds * PERIODS_PER_S) * PERIOD_RECORDS
        [report] = daemon.order("Pace", count, reports=1)
        wait_for("all records", lambda: length(daemon.file) >= count * LINE_LEN)
        return {"wakes_per_ten": report["wakes"] * PERIOD_RECORDS / count,
                "calls_per_ten": traced(daemon, count)}
    return with_daemon(program, place, "ring", 1, trial)


def traced(daemon, count):
    """What strace counts of the worker meanwhile; nothing where it cannot."""
    if not find("strace"):
        return {}
    summary = daemon.directory / "strace"
    worker = daemon.status()["workers"][0]["pid"]
    strace = subprocess.Popen(["strace", "-f", "-c", "-U", "name,calls", "-o", summary, "-p", str(worker)],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if "attached" not in strace.stderr.readline():
        strace.wait()
        return {}
    daemon.order("Pace", count, reports=1)
    strace.send_signal(signal.SIGINT)
    strace.wait()
    calls = re.findall(r"^(\w+)\s+(\d+)$", summary.read_text(), re.MULTILINE)
    return {name: int(number) * PERIOD_RECORDS / count for name, number in calls
            if name != "total" and int(number) * PERIOD_RECORDS > count / 100}
