#!/usr/bin/env python3
"""The entry point of ser_jax: `python launch.py COMMAND [options]`. See `python launch.py --help`."""

import signal
import sys

if __name__ == "__main__":
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends a command as Ctrl-C does
        from ser_jax.commands.main import main  # here, so that an interruption in the first instant is one line too

        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
