"""Benchmark of a minimal HTTP answer; scripts/bench http starts it.

The peers run at the same time and are loaded in turns, in an order that is rotated every round, so that
a slow minute of the machine falls on all of them. The load generator shares the machine's processors:
compare the ratios, and the CPU time per request, rather than the rates themselves.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

# Behind all others: one of the files here has the name of a standard module.
sys.path.append(str(pathlib.Path(__file__).parent))
from machine import find, free_ports  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BODY = b"Hello, World!"
START_TIMEOUT_S = 15
STOP_TIMEOUT_S = 15
WARM_UP_S = 1
LOAD_THREADS = 2
REFERENCE = "nginx"


class Peer:
    """A server under load: its command, its process and what was measured."""

    def __init__(self, name, command, port, directory):
        self.name = name
        self.command = [str(part) for part in command]
        self.port = port
        self.log = directory / f"{name}.log"
        self.process = None
        self.rounds = []

    def start(self):
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C reaches this program alone, which then stops the peers in order.
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self.process.poll() is not None:
                self.fail(f"ended with status {self.process.returncode}")
            if time.monotonic() > deadline:
                self.fail(f"does not answer after {START_TIMEOUT_S} s")
            time.sleep(0.05)

    def answers(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if answer.status == 200 and body != BODY:
            self.fail(f"answers {body[:80]!r}, not {BODY!r}")
        return answer.status == 200

    def fail(self, why):
        sys.stderr.write(self.log.read_text(errors="replace"))
        raise SystemExit(f"{self.name} {why}")

    def stop(self):
        if self.process is None:
            return
        family = tree(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # A pid may have been given out again: only the same start time is the same process.
        for pid, started in family.items():
            if pid != self.process.pid and alive(pid) and start_time(pid) == started:
                print(f"{self.name}: pid {pid} outlived its parent, killed", file=sys.stderr)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def load(self, connections, seconds):
        """One run of wrk, with the CPU time that the peer's processes used meanwhile."""
        before = cpu_us(self.process.pid)
        report = subprocess.run(
            ["wrk", f"-t{LOAD_THREADS}", f"-c{connections}", f"-d{seconds}s", "--latency",
             f"http://127.0.0.1:{self.port}/"],
            check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        ).stdout
        if self.process.poll() is not None:
            self.fail(f"ended under load with status {self.process.returncode}")
        used_us = cpu_us(self.process.pid) - before
        measured = parse_wrk(report)
        measured["cpu_us_per_request"] = used_us / max(measured["requests"], 1)
        return measured


def parse_wrk(report):
    def number(pattern, default=None):
        found = re.search(pattern, report, re.MULTILINE)
        if found is None and default is None:
            raise SystemExit(f"cannot read wrk's report:\n{report}")
        return float(found[1]) if found else default

    value, unit = re.search(r"^\s+99%\s+([\d.]+)(us|ms|s|m)\s*$", report, re.MULTILINE).groups()
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
    errors = sum(map(int, sockets.groups())) if sockets else 0
    return {
        "requests": int(number(r"^\s+(\d+) requests in")),
        "requests_per_s": number(r"^Requests/sec:\s+([\d.]+)"),
        "p99_us": float(value) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}[unit],
        "errors": errors + int(number(r"Non-2xx or 3xx responses: (\d+)", default=0)),
    }


def stat(pid):
    """The fields of /proc/PID/stat behind the name, which may hold spaces; None for a process that is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def start_time(pid):
    fields = stat(pid)
    return fields and fields[19]


def alive(pid):
    fields = stat(pid)
    return fields is not None and fields[0] != "Z"


def tree(root):
    """The live process and its live descendants: pid to start time."""
    parents, started = {}, {}
    for entry in os.listdir("/proc"):
        fields = stat(entry) if entry.isdigit() else None
        if fields:
            parents[int(entry)] = int(fields[1])
            started[int(entry)] = fields[19]
    family = {root}
    grown = True
    while grown:
        found = {pid for pid, parent in parents.items() if parent in family} - family
        family |= found
        grown = bool(found)
    return {pid: started[pid] for pid in family if pid in started}


def cpu_us(root):
    """User and system time of the tree's live processes; one that ended takes its share with it."""
    ticks = 0
    for pid in tree(root):
        fields = stat(pid)
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks * 1e6 / os.sysconf("SC_CLK_TCK")


def build(arguments, target=None):
    environment = dict(os.environ, **({"CARGO_TARGET_DIR": str(target)} if target else {}))
    subprocess.run(["cargo", "build", "--release", "--quiet", *arguments], cwd=ROOT, env=environment, check=True)


def nginx_config(directory, port, workers):
    # nginx drops to another user as root; it needs nothing but these directories.
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"    {kind}_temp_path {directory}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    return f"""
{user}
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    default_type text/plain;
{temporary}
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 200 "{BODY.decode()}"; }}
    }}
}}
"""


def peers(options, directory):
    """Builds what can be built; a peer that cannot take part is left out with a line that says so."""
    ports = free_ports(3)
    found = []

    if (ROOT / "examples/hello.rs").exists():
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"))
        build(["--example", "hello"])
        hello = ROOT / target / "release/examples/hello"
        found.append(Peer("forebay", [
            hello, "serve", "--listen", f"127.0.0.1:{ports[0]}", "--workers", options.workers,
            "--run-dir", directory / "run",
        ], ports[0], directory))
    else:
        print("forebay: left out, examples/hello.rs does not exist")

    target = ROOT / "target/peers"
    build(["--locked", "--manifest-path", "benches/peers/axum/Cargo.toml"], target)
    axum = target / "release/peer-axum"
    found.append(Peer("axum", [axum, f"127.0.0.1:{ports[1]}", options.workers], ports[1], directory))

    nginx = find("nginx")
    if nginx:
        config = directory / "nginx.conf"
        config.write_text(nginx_config(directory, ports[2], options.workers))
        command = [nginx, "-p", directory, "-c", config, "-e", "stderr"]
        found.append(Peer("nginx", command, ports[2], directory))
    else:
        print("nginx: left out, it is not installed")
    return found


def summarize(measured):
    def median(peer, key):
        return statistics.median(one[key] for one in peer.rounds)

    reference = next((median(peer, "requests_per_s") for peer in measured if peer.name == REFERENCE), None)
    rows = []
    for peer in measured:
        rate = median(peer, "requests_per_s")
        rows.append({
            "name": peer.name,
            "requests_per_s": rate,
            "ratio": rate / reference if reference else None,
            "cpu_us_per_request": median(peer, "cpu_us_per_request"),
            "p99_us": median(peer, "p99_us"),
            "errors": sum(one["errors"] for one in peer.rounds),
            "rounds": peer.rounds,
        })
    return rows


def print_table(rows):
    print(f"{'':10} {'req/s':>10} {'to ' + REFERENCE:>9} {'CPU us/req':>11} {'p99 ms':>8} {'errors':>7}")
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        print(f"{row['name']:10} {row['requests_per_s']:10.0f} {ratio:>9} {row['cpu_us_per_request']:11.1f} "
              f"{row['p99_us'] / 1000:8.2f} {row['errors']:7}")


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/bench http", description=(
        'Compares "Hello, World!" from forebay, from an axum program without it, and from nginx.'))
    parser.add_argument("--seconds", type=positive, default=5, help="of load for a peer in a round (5)")
    parser.add_argument("--rounds", type=positive, default=5, help="of all peers; the medians are printed (5)")
    parser.add_argument("--connections", type=positive, default=64, help="kept open by wrk (64)")
    parser.add_argument("--workers", type=positive, default=2, help="processes or threads of a peer (2)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all measurements there too")
    options = parser.parse_args()
    if options.connections < LOAD_THREADS:
        parser.error(f"--connections must be at least {LOAD_THREADS}")
    return options


def main():
    options = parse_options()
    # TERM ends this program as Ctrl-C does: through the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="forebay-bench-"))
    started = []
    try:
        measured = peers(options, directory)
        for peer in measured:
            started.append(peer)
            peer.start()
            peer.load(options.connections, WARM_UP_S)
        for number in range(options.rounds):
            first = number % len(measured)
            for peer in measured[first:] + measured[:first]:
                peer.rounds.append(peer.load(options.connections, options.seconds))
    finally:
        for peer in started:
            peer.stop()
        shutil.rmtree(directory, ignore_errors=True)

    rows = summarize(measured)
    print(f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections, "
          f"{options.workers} workers, {os.cpu_count()} processors; medians")
    print_table(rows)
    if options.json:
        settings = {key: getattr(options, key) for key in ["rounds", "seconds", "connections", "workers"]}
        report = {**settings, "processors": os.cpu_count(), "peers": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed with status {error.returncode}")
