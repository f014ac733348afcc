"""The servers that are compared: how each is built, configured, started, loaded and stopped."""

import http.client
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from machine import end, find, free_ports

ROOT = pathlib.Path(__file__).resolve().parents[2]
BODY = b"Hello, World!"
START_TIMEOUT_S = 15
LOAD_THREADS = 2
NODE = """
const cluster = require('cluster'), http = require('http'), [port, workers] = process.argv.slice(2);
if (cluster.isPrimary) {
    for (let number = 0; number < workers; number++) cluster.fork();
    process.on('SIGTERM', () => process.exit(0));
} else {
    http.createServer((_, answer) => answer.end('Hello, World!')).listen(port, '127.0.0.1', 4096);
}
"""


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
        end(self.process)
        # A pid may have been given out again: only the same start time is the same process.
        for pid, started in family.items():
            if pid != self.process.pid and alive(pid) and start_time(pid) == started:
                print(f"{self.name}: pid {pid} outlived its parent, killed", file=sys.stderr)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def load(self, connections, seconds, *options):
        """One run of wrk, with the CPU time that the peer's processes used meanwhile."""
        before = cpu_us(self.process.pid)
        report = subprocess.run(
            ["wrk", f"-t{LOAD_THREADS}", f"-c{connections}", f"-d{seconds}s", "--latency", *options,
             f"http://127.0.0.1:{self.port}/"],
            check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        ).stdout
        if self.process.poll() is not None:
            self.fail(f"ended under load with status {self.process.returncode}")
        used_us = cpu_us(self.process.pid) - before
        measured = parse_wrk(report)
        measured["cpu_us_per_request"] = used_us / max(measured["requests"], 1)
        return measured

    def connections(self):
        """How many each of its processes has open, of those that have any."""
        port, counts = f":{self.port:04X}", []
        table = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
        ours = {fields[9] for fields in map(str.split, table) if fields[1].endswith(port) and fields[3] == "01"}
        for pid in tree(self.process.pid):
            links = []
            for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                try:
                    links.append(os.readlink(entry))
                except FileNotFoundError:
                    pass
            counts.append(len(ours & {link[8:-1] for link in links if link.startswith("socket:[")}))
        return [count for count in counts if count]


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


def nginx_config(directory, port, workers, log):
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
events {{ worker_connections 8192; }}
http {{
    access_log {log or "off"};
    keepalive_requests 1000000000;
    default_type text/plain;
{temporary}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "{BODY.decode()}"; }}
    }}
}}
"""


def haproxy_config(port, workers):
    return f"""
global
    nbthread {workers}
    maxconn 9000
defaults
    mode http
    timeout client 60s
frontend hello
    bind 127.0.0.1:{port} backlog 4096
    http-request return status 200 content-type text/plain string "{BODY.decode()}"
"""


def forebay(directory, workers, logged):
    [port] = free_ports(1)
    build(["--example", "hello"])
    hello = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples/hello"
    configuration = directory / "forebay.toml"
    configuration.write_text(f'[log.access]\nkind = "file"\npath = "{directory}/access.log"\n' if logged else "")
    command = [hello, "serve", "--config", configuration, "--listen", f"127.0.0.1:{port}", "--workers", workers,
               "--run-dir", directory / "run"]
    return Peer("forebay", command, port, directory)


def cargo_peer(name):
    def make(directory, workers, logged):
        [port] = free_ports(1)
        build(["--locked", "--manifest-path", f"benches/peers/{name}/Cargo.toml"], ROOT / "target/peers")
        program = ROOT / f"target/peers/release/peer-{name}"
        return Peer(name, [program, f"127.0.0.1:{port}", workers], port, directory)
    return make


def nginx(directory, workers, logged):
    [port] = free_ports(1)
    config = directory / "nginx.conf"
    config.write_text(nginx_config(directory, port, workers, f"{directory}/nginx.access.log" if logged else None))
    return Peer("nginx", [find("nginx"), "-p", directory, "-c", config, "-e", "stderr"], port, directory)


def haproxy(directory, workers, logged):
    [port] = free_ports(1)
    config = directory / "haproxy.cfg"
    config.write_text(haproxy_config(port, workers))
    return Peer("haproxy", [find("haproxy"), "-db", "-f", config], port, directory)


def node(directory, workers, logged):
    [port] = free_ports(1)
    script = directory / "node.js"
    script.write_text(NODE)
    return Peer("node", [find("node"), script, port, workers], port, directory)


PEERS = {"forebay": forebay, "nginx": nginx, "haproxy": haproxy, "actix": cargo_peer("actix"),
         "axum": cargo_peer("axum"), "node": node}
INSTALLED = ["nginx", "haproxy", "node"]


def make(name, directory, workers, logged=False):
    """None, and a line that says so, where it is not installed."""
    if name in INSTALLED and not find(name):
        print(f"{name}: left out, it is not installed")
        return None
    return PEERS[name](directory, workers, logged)
