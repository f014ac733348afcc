"""Benchmark of the log; scripts/bench log starts it.

Every way is started anew for each round, with a file of its own, in an order that is rotated every round, so
that a slow minute of the machine falls on all of them. Ratios are those of one round's measurements, and the
median of the rounds.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

# Behind all others: one of the files here has the name of a standard module.
sys.path.append(str(pathlib.Path(__file__).parent))
from command_line import positive, run_program  # noqa: E402
from logging_daemon import LINE_LEN, PATIENCE_S, Daemon, build, length, processor_s, wait_for  # noqa: E402
from logging_trials import kill_helpers, kill_producers, latency, wake_ups  # noqa: E402
from machine import scratch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
PRODUCERS = 4
# Not counted: buffers grow, and a ring's memory is touched for the first time.
WARM_UP = 10_000

WAYS = ["ring", "socket", "append", "env_logger", "tracing"]
# Of which rate to which other; and what is aimed at.
RATIOS = [("ring", "append", 4.0), ("ring", "tracing", 6.0)]
# Nanoseconds of a producer beyond formatting.
COST = ("ring", 100)
# Of the latency with the log helper stopped to that without.
LATENCY = 1.2
# Of ten records.
WAKES = 1.0

COMPARED = f"""\
{PRODUCERS} processes log lines of {LINE_LEN} bytes into one file as fast as they can.
  ring        forebay's workers, by the `log` macros, through memory shared with the log helper
  socket      the same over the log helper's socket, 256 records in each turn of the loop
  append      each record by a write of its own to the file, which is open with O_APPEND
  env_logger  env_logger to standard error, a pipe that one process copies to the file
  tracing     tracing's fmt subscriber and tracing-appender, non-blocking, told to lose nothing
The rate is until the last record is in the file. The processor's time is that of the producing process, all its
threads, less what formatting the same message into memory takes; what a producer of forebay takes to see whether
there is room for more, before every 256 records, is not counted: it sleeps for 200 µs where there is none. The
others block by themselves. Who logs faster than that is refused records by forebay, and told so in the log; none
are here. Every record is looked for in the file by its number."""


def run_forebay(program, directory, transport, records):
    daemon = Daemon(program, directory, transport, PRODUCERS)
    try:
        daemon.order("Log", WARM_UP)
        wait_for("the warm-up", lambda: length(daemon.file) >= PRODUCERS * WARM_UP * LINE_LEN)
        helper = daemon.helper("log")
        before, processor = length(daemon.file), processor_s(helper)
        order = daemon.start_order("Log", records)
        end = wait_for_length(daemon.file, before + PRODUCERS * records * LINE_LEN)
        reports = daemon.finish_order(order)
        took = processor_s(helper) - processor
        found = figures(reports, end, records)
        found["helper_ns"] = took / (PRODUCERS * records) * 1e9
        found["refused"] = sum(report["refused"] for report in reports)
        return found
    finally:
        daemon.stop()


def run_peer(program, directory, way, records):
    file = directory / "file.log"
    collector, output = None, subprocess.DEVNULL
    if way == "env_logger":
        collector = subprocess.Popen([program, "collect", file], stdin=subprocess.PIPE)
        output = collector.stdin
    producers = [
        subprocess.Popen(
            [str(word) for word in (program, "produce", way, number, file, WARM_UP, records)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
        ) for number in range(PRODUCERS)
    ]
    if collector:
        collector.stdin.close()
    try:
        for producer in producers:
            assert producer.stdout.readline() == "ready\n", f"{way} does not get ready"
        wait_for("the warm-up", lambda: length(file) >= PRODUCERS * WARM_UP * LINE_LEN)
        for producer in producers:
            producer.stdin.write("go\n")
            producer.stdin.flush()
        end = wait_for_length(file, PRODUCERS * (WARM_UP + records) * LINE_LEN)
        return figures([json.loads(producer.communicate(timeout=PATIENCE_S)[0]) for producer in producers], end, records)
    finally:
        for producer in producers:
            producer.kill()
            producer.wait()
        if collector:
            collector.wait()


def wait_for_length(file, wanted):
    """When it had it. What is missing is found out by counting."""
    last, changed = -1, time.monotonic()
    while (now := length(file)) < wanted and time.monotonic() - changed < 10:
        if now != last:
            last, changed = now, time.monotonic()
        time.sleep(0.001)
    return time.monotonic() if now >= wanted else changed


def figures(reports, end, records):
    began = min(report["began_ns"] for report in reports) / 1e9
    cpu = [report["cpu_ns"] / records for report in reports]
    formatting = [report["formatting_ns"] for report in reports]
    return {
        "rate": len(reports) * records / (end - began),
        "cpu_ns": statistics.mean(cpu),
        "formatting_ns": statistics.mean(formatting),
        "beyond_ns": statistics.mean(cpu) - statistics.mean(formatting),
    }


def count(file, records):
    """Records missing, and records that are there twice."""
    seen = [bytearray(WARM_UP + records) for _ in range(PRODUCERS)]
    twice = 0
    with open(file, "rb") as lines:
        # Behind a bracket, or tracing's target: that is found fast.
        for found in re.finditer(rb"[\]:] (\d):(\d{8}) GET", lines.read()):
            producer, number = int(found[1]), int(found[2])
            twice += seen[producer][number]
            seen[producer][number] = 1
    return sum(one.count(0) for one in seen), twice


def measure(options, place):
    program = build(ROOT)
    peers = TARGET / "peers"
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", "benches/peers/log/Cargo.toml"],
        cwd=ROOT, env=dict(os.environ, CARGO_TARGET_DIR=str(peers)), check=True,
    )
    found = {way: [] for way in options.ways}
    loads = []
    for number in range(options.rounds):
        loads.append(os.getloadavg()[0])
        first = number % len(options.ways)
        for way in options.ways[first:] + options.ways[:first]:
            with scratch(place) as directory:
                if way in ("ring", "socket"):
                    one = run_forebay(program, directory, way, options.records)
                else:
                    one = run_peer(peers / "release/peer-log", directory, way, options.records)
                one["lost"], one["twice"] = count(directory / "file.log", options.records)
                found[way].append(one)
    return program, found, loads


def verdict(is_so):
    return "reached" if is_so else "missed"


def print_rates(options, found, loads, place):
    filesystem = subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True).stdout.strip()
    print(f"\n{options.rounds} rounds of {PRODUCERS} times {options.records} records, on {filesystem}, {os.cpu_count()} processors, "
          f"load average {min(loads):.1f} to {max(loads):.1f}, of which this is a part; medians\n")
    print(f"{'':12}{'records/s':>12}{'formatting':>12}{'beyond it':>12}{'log helper':>12}{'refused':>9}{'lost':>7}{'twice':>7}")
    for way, rounds in found.items():
        def middle(key):
            return statistics.median(one[key] for one in rounds)
        helper = f"{middle('helper_ns'):9.0f} ns" if "helper_ns" in rounds[0] else f"{'-':>12}"
        print(f"{way:12}{middle('rate'):12,.0f}{middle('formatting_ns'):9.0f} ns{middle('beyond_ns'):9.0f} ns{helper}"
              f"{sum(one.get('refused', 0) for one in rounds):9}{sum(one['lost'] for one in rounds):7}"
              f"{sum(one['twice'] for one in rounds):7}")
    print()
    for one, other, aim in RATIOS:
        if one in found and other in found:
            ratios = [a["rate"] / b["rate"] for a, b in zip(found[one], found[other])]
            ratio = statistics.median(ratios)
            print(f"{one} to {other}, records a second: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
                  f"the aim, {aim}, is {verdict(ratio >= aim)}")
    way, aim = COST
    if way in found:
        cost = statistics.median(one["beyond_ns"] for one in found[way])
        print(f"{way}, beyond formatting: {cost:.0f} ns; the aim, at most {aim}, is {verdict(cost <= aim)}")


def print_trials(options, program, place):
    found = {"latency": latency(program, place, options.rounds, options.seconds),
             "wake_ups": wake_ups(program, place, options.seconds)}
    ratio = found["latency"]["ratio"]
    print(f"99th percentile of requests that log, log helper stopped to running: {ratio:.2f} "
          f"({found['latency']['stopped_ms']:.2f} ms, {found['latency']['running_ms']:.2f} ms); "
          f"the aim, at most {LATENCY}, is {verdict(ratio <= LATENCY)}")
    wakes = found["wake_ups"]
    print(f"ten records every 500 µs: {wakes['wakes_per_ten']:.3f} wake-ups for ten records; "
          f"the aim, at most {WAKES:g}, is {verdict(wakes['wakes_per_ten'] <= WAKES)}")
    print("  system calls of the producer for ten records: " + (", ".join(
        f"{name} {number:.3f}" for name, number in wakes["calls_per_ten"].items()) or "not known, strace cannot trace"))
    return found


def print_kills(options, program, place):
    found = {}
    for transport in ("ring", "socket"):
        for what, kill in (("producer", kill_producers), ("log helper", kill_helpers)):
            one = kill(program, place, transport, options.kills)
            found[f"{transport}, {what}"] = one
            print(f"{transport}, {what} killed {options.kills} times: of {one['records']} records {one['lost']} lost, "
                  f"{one['twice']} twice, {one['refused']} refused", flush=True)
    return found


def parse_options():
    parser = argparse.ArgumentParser(
        prog="scripts/bench log", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Records a second into one file, of forebay and of what else does that, and what they cost.",
        epilog=COMPARED)
    parser.add_argument("--records", type=positive(int), default=200_000, help="of each producer in each round (200000)")
    parser.add_argument("--rounds", type=positive(int), default=5, help="of all; the medians are printed (5)")
    parser.add_argument("--seconds", type=positive(float), default=3.0, help="of each measurement of latency (3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help="only these")
    parser.add_argument("--directory", type=pathlib.Path, help="where the files are (the temporary directory)")
    parser.add_argument("--kills", type=positive(int), nargs="?", const=200, metavar="ROUNDS",
                        help="instead: kill a producer, and the log helper, so many times (200), and count")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all measurements there too")
    return parser.parse_args()


def main():
    options = parse_options()
    with scratch(options.directory) as place:
        if options.kills:
            report = print_kills(options, build(ROOT), place)
        else:
            print(COMPARED)
            program, found, loads = measure(options, place)
            print_rates(options, found, loads, place)
            report = {"rounds": options.rounds, "records": options.records, "processors": os.cpu_count(),
                      "load_averages": loads, "ways": found, **print_trials(options, program, place)}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
