"""`python -m stack`: up, down, watch, test, run; and `serve`, for containers."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from stack.application import PROCESSES
from stack.errors import StackError


def main() -> int:
    options = _arguments().parse_args()
    try:
        return _run(options)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    """Imports only what the verb needs: the guard stays small."""
    if options.verb == "up":
        from stack.up import up

        return up(options.data_dir, options.port, is_open=options.open)
    if options.verb == "down":
        from stack.up import down

        return down(options.data_dir)
    if options.verb == "guard":
        from stack.guard import watch

        return watch(Path(options.data_dir))
    if options.verb == "watch":
        from stack.watch import watch as watch_events

        return watch_events(options.data_dir)
    if options.verb == "serve":
        from stack.container import serve

        return serve(options.role, options.port)
    from stack import trial

    words = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if options.verb == "test":  # the whole suite brings its engine; who names tests knows what they need
        command, servers = trial.test_command(words), trial.SIDE_BY_SIDE
        return asyncio.run(trial.run(command, with_engine=not words, valkeys=servers))
    return asyncio.run(trial.run(words))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stack", description="Run Workspace Server on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="up | down | watch | test | run")
    up = verbs.add_parser("up", help="start everything and stay in the foreground")
    up.add_argument("--open", action="store_true", help="ask nobody for a credential (development only)")
    down = verbs.add_parser("down", help="stop what `up` started")
    watch = verbs.add_parser("watch", help="print the live events of a running stack")
    guard = verbs.add_parser("guard")  # started by `up`
    serve = verbs.add_parser("serve")  # the entry point of the container image
    serve.add_argument("role", choices=[*PROCESSES, "migrate"])
    for verb, port in ((up, 8080), (serve, 8000)):
        verb.add_argument("--port", type=_port, default=port)
    for verb in (up, down, watch, guard):
        verb.add_argument("--data-dir", default=".data", help="folder of everything the stack keeps")
    test = verbs.add_parser("test", help="run pytest with throw-away servers")
    run = verbs.add_parser("run", help="run a command with throw-away servers")
    for verb in (test, run):
        verb.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
