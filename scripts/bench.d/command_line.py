"""What the benchmarks' command lines have in common."""

import argparse
import signal
import subprocess
import sys


def positive(kind):
    """A number of this kind, for an option that takes no other."""
    def parse(text):
        number = kind(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError("must be more than 0")
        return number
    return parse


def run_program(main):
    """Runs the program, and ends it with a sentence when one that it has started fails."""
    # TERM ends this program as Ctrl-C does: through the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed with status {error.returncode}\n{error.stderr or ''}")
    except subprocess.TimeoutExpired as error:
        sys.exit(f"{error.cmd[0]} does not end within {error.timeout:g} s")
