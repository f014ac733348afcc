"""Checks forebay's sockets with a client of its own; one line for each check, 1 at the first that fails.

usage: check.py vectors
       check.py nest RUN_DIR WORD        the gateway with its built-in simulator; WORD is logged
       check.py keeper RUN_DIR           the tests' application tests/it/keeper.rs
       check.py stranger RUN_DIR UID     becomes this user, who may not ask
"""

import os
import sys
import traceback
from pathlib import Path

import live
import vectors


def said(rule, what):
    print(f"ok {rule or '--'} {what}", flush=True)


def become(uid):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def main(words):
    match words:
        case ["vectors"]:
            vectors.check_all(said)
        case ["nest", run_dir, word]:
            live.check_nest(Path(run_dir), word, said)
        case ["keeper", run_dir]:
            live.check_keeper(Path(run_dir), said)
        case ["stranger", run_dir, uid]:
            become(int(uid))
            live.check_stranger(Path(run_dir), said)
        case _:
            print(__doc__, file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except vectors.Wrong as wrong:
        print(f"failed: {wrong}", flush=True)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        print(f"failed: {error!r}", flush=True)
        sys.exit(1)
