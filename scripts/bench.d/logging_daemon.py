"""The daemon of benches/log.rs: workers that log into a file, and what they are told to do."""

import json
import os
import pathlib
import signal
import subprocess
import time

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
# What all records of an order may take to be in the file, on a machine that is busy.
PATIENCE_S = 120
# How often the file's length is looked at.
LOOK_S = 0.001
LINE_LEN = 150

CONFIGURATION = """\
workers = {workers}
[timeouts]
hang = 60
[restart]
# Those that are killed on purpose are replaced at once.
intensity = 1000000
[worker]
slow_turn = 0
[log]
transport = "{transport}"
[[log.target]]
kind = "file"
path = "{file}"
"""


def build(root):
    report = subprocess.run(
        ["cargo", "bench", "--quiet", "--no-run", "--bench", "log", "--message-format", "json"],
        cwd=root, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout
    built = [json.loads(line) for line in report.splitlines() if line.startswith("{")]
    return next(one["executable"] for one in built if one.get("target", {}).get("kind") == ["bench"])


def processor_s(pid):
    """Seconds of the processor that a process has had, to the nanosecond."""
    return sum(int(path.read_text().split()[0]) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def wait_for(what, is_so, process=None, patience=PATIENCE_S, look=LOOK_S):
    deadline = time.monotonic() + patience
    while not (found := is_so()):
        if time.monotonic() > deadline or (process and process.poll() is not None):
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(look)
    return found


def length(file):
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0


class Daemon:
    """One that serves; the next number that its records may have is its own business."""

    def __init__(self, program, directory, transport, workers, port=0):
        self.program = program
        self.directory = directory
        self.workers = workers
        self.file = directory / "file.log"
        self.next = 0
        configuration = directory / "configuration.toml"
        configuration.write_text(CONFIGURATION.format(workers=workers, transport=transport, file=self.file))
        self.place = ["--run-dir", str(directory / "run")]
        environment = dict(os.environ)
        environment.pop("RUST_LOG", None)
        with open(directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                [str(program), "serve", *self.place, "--config", str(configuration),
                 "--listen", f"127.0.0.1:{port}"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True,
            )
        wait_for("a daemon that serves", lambda: self.status().get("state") == "serving", self.process,
                 START_TIMEOUT_S, 0.05)

    def status(self):
        words = [self.program, "status", "--json", *self.place]
        found = subprocess.run([str(word) for word in words], capture_output=True, stdin=subprocess.DEVNULL)
        return json.loads(found.stdout) if found.returncode == 0 else {}

    def helper(self, name):
        """Its process; None while there is none."""
        return next((one["pid"] for one in self.status().get("helpers", []) if one["name"] == name), None)

    def start_order(self, act, count, slot=None, reports=None):
        """Gives an order, and returns who waits for the reports."""
        order = {"act": act, "slot": slot, "from": self.next, "count": count, "file": str(self.file),
                 "len": length(self.file), "reports": self.workers if reports is None else reports}
        self.next += count
        words = [self.program, "call", "conductor", json.dumps({"method": "order", "params": order}),
                 "--timeout", PATIENCE_S, *self.place]
        return subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def finish_order(self, process):
        out, _ = process.communicate(timeout=PATIENCE_S)
        if process.returncode != 0:
            raise SystemExit(f"the workers do not report: {out.decode()}")
        return json.loads(out)

    def order(self, act, count, **more):
        return self.finish_order(self.start_order(act, count, **more))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
