"""`python -m agent serve|connect`: options and environment in, an exit code out."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from uuid import UUID, uuid4

from agent import __version__
from agent.client import Platform, Unreachable, checked_base_url
from agent.credentials import Credentials, checked_secret
from agent.delegations import Delegations, Refused
from agent.exits import AgentExit, ExitCode
from agent.replies import Script, load_script
from agent.runtime import Agent, Settings
from agent.server import inherited_listener, open_listener

log = logging.getLogger("agent")

EXIT_CODES = """exit codes: 0 told to stop; 1 cannot listen, or a fault of the agent; 2 wrong options, or the
registration is malformed; 3 the token is refused; 4 the workspace does not exist (any more)"""


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m agent",
        epilog=EXIT_CODES,
        description="The reference agent: registers a workspace, sends heartbeats, answers messages.",
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="serve|connect|delegate")

    serve = commands.add_parser(
        "serve",
        epilog=EXIT_CODES,
        help="run as a managed agent that the control plane calls",
        description="Serve the A2A endpoint and keep the workspace online. Options win over the environment.",
    )
    serve.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="holds .auth_token and .platform_inbound_secret, both kept up to date "
        "(env WORKSPACE_CONFIG_PATH, default /configs)",
    )
    serve.add_argument(
        "--platform-url", metavar="URL", help="the control plane (env PLATFORM_URL or MOLECULE_URL)"
    )
    serve.add_argument("--workspace", metavar="UUID", help="env WORKSPACE_ID")
    serve.add_argument("--generation", metavar="N", help="a mark for whoever lists processes; not used")
    serve.add_argument("--instance", metavar="ID", help="a mark for whoever lists processes; not used")
    serve.add_argument(
        "--url",
        metavar="URL",
        help="where the control plane reaches this agent "
        "(env MOLECULE_WORKSPACE_URL, default from host and port)",
    )
    serve.add_argument("--listen-fd", type=int, metavar="FD", help="serve on this inherited TCP socket")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    serve.add_argument(
        "--port", type=int, help="port to listen on, 0 for a free one (env A2A_PORT, default 8000)"
    )
    serve.add_argument(
        "--max-tasks",
        type=int,
        metavar="N",
        help="tasks at once, one more is answered busy (default: no limit)",
    )
    serve.add_argument(
        "--poll", action="store_true", help="register in poll mode and answer the inbox instead of calls"
    )

    connect = commands.add_parser(
        "connect",
        epilog=EXIT_CODES,
        help="run as an external agent behind a firewall, without an open port",
        description="Register in poll mode, read the inbox and answer it. Prints what happens, line by line.",
    )
    connect.add_argument("--url", metavar="URL", help="the control plane (env PLATFORM_URL or MOLECULE_URL)")
    connect.add_argument("--workspace", metavar="UUID", help="env WORKSPACE_ID")
    connect.add_argument(
        "--token",
        metavar="TOKEN",
        help="the workspace's token, or @FILE; other users of the machine see options, "
        "so rather set env MOLECULE_WORKSPACE_TOKEN",
    )

    delegate = commands.add_parser(
        "delegate",
        epilog=EXIT_CODES,
        help="hand a task to another workspace and print its result",
        description="Hand TASK to the workspace TARGET in the name of this one, and wait for how it ends.",
    )
    delegate.add_argument("target", metavar="TARGET", help="id of the workspace that is to do it")
    delegate.add_argument("task", metavar="TASK", help="what is to be done")
    delegate.add_argument(
        "--wait", type=float, default=300.0, metavar="S", help="seconds to wait, 0 for not at all"
    )
    for option, text in (("--url", "the control plane"), ("--workspace", "env WORKSPACE_ID")):
        delegate.add_argument(option, metavar=option[2:].upper(), help=text)
    delegate.add_argument("--token", metavar="TOKEN", help="as for connect")
    delegate.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")

    for command in (serve, connect):
        command.add_argument(
            "--reply", choices=("echo", "script"), help="default: script when --script is given"
        )
        command.add_argument(
            "--script",
            type=Path,
            metavar="FILE.json",
            help='list of {"match", "reply"?, "delay_s"?, "error"?, "failure"?, "delegate"?}; '
            "the first match wins, anything else is echoed",
        )
        command.add_argument(
            "--heartbeat-seconds", type=float, default=20.0, metavar="S", help="default %(default)s"
        )
        command.add_argument(
            "--poll-seconds", type=float, default=4.0, metavar="S", help="default %(default)s"
        )
        command.add_argument(
            "--state-dir",
            type=Path,
            metavar="DIR",
            help="where the inbox cursor is kept (default ~/.workspace-agent/<workspace>, "
            "with serve <config-dir>/.state)",
        )
        command.add_argument(
            "--workspace-dir",
            type=Path,
            metavar="DIR",
            help="what the agent calls /workspace; files of the user go there (default: the folder "
            "workspace in the state directory, with serve beside the config directory)",
        )
        command.add_argument(
            "--name", metavar="TEXT", help="name in the agent card (default: the workspace's)"
        )
        command.add_argument("--description", metavar="TEXT", help="env MOLECULE_AGENT_ROLE")
        command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    options, unknown = parser().parse_known_args(arguments)
    if unknown:  # argparse would repeat them, and one may be a token after a misspelt option
        return _complain(f"{len(unknown)} unknown argument(s); see --help")
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if options.command == "delegate":
            return _delegate(options)
        agent = Agent(_serve_settings(options) if options.command == "serve" else _connect_settings(options))
    except AgentExit as error:
        return _complain(str(error), error.code)
    agent.end_on_signals()
    log.info("workspace %s at %s", agent.settings.workspace_id, agent.settings.platform_url)
    reason = agent.run()
    if reason.code is not ExitCode.OK:
        return _complain(reason.message, reason.code)
    log.info("stopped by %s", reason.message)
    return reason.code


def _delegate(options: argparse.Namespace) -> int:
    """Raises AgentExit."""
    token = _token(options.token or os.environ.get("MOLECULE_WORKSPACE_TOKEN") or "")
    platform = Platform(_platform_url(options.url, "--url"), _workspace_id(options), lambda: token)
    delegations = Delegations(platform)
    try:
        delegation_id = delegations.delegate(options.target, options.task, str(uuid4()))
        print(f"delegated: {delegation_id}", flush=True)
        ended = delegations.wait(delegation_id, options.wait) if options.wait > 0 else None
    except (Refused, Unreachable) as error:
        raise AgentExit(ExitCode.FAILED, str(error)) from None
    if ended is None:
        return ExitCode.OK
    print(f"{'completed' if ended.is_completed else 'failed'}: {ended.text}", flush=True)
    return ExitCode.OK if ended.is_completed else ExitCode.FAILED


def _serve_settings(options: argparse.Namespace) -> Settings:
    """Raises AgentExit."""
    workspace_id = _workspace_id(options)
    platform_url = _platform_url(options.platform_url, "--platform-url")
    directory: Path = options.config_dir or Path(os.environ.get("WORKSPACE_CONFIG_PATH") or "/configs")
    if not directory.is_dir():
        _usage(f"{directory} is no directory (--config-dir)")
    script = _script(options)
    state_dir = _state_dir(options.state_dir or directory / ".state") if options.poll else None
    try:
        listener = (
            open_listener(options.host, _port(options.port))
            if options.listen_fd is None
            else inherited_listener(options.listen_fd)
        )
    except (OSError, OverflowError, ValueError) as error:
        raise AgentExit(ExitCode.FAILED, f"cannot listen: {error}") from None
    own_url = (
        "" if options.poll else (options.url or os.environ.get("MOLECULE_WORKSPACE_URL") or _url_of(listener))
    )
    log.info("listening on %s", _url_of(listener))
    return Settings(
        platform_url=platform_url,
        workspace_id=workspace_id,
        credentials=Credentials(directory),
        script=script,
        heartbeat_s=_seconds(options.heartbeat_seconds),
        poll_s=_seconds(options.poll_seconds),
        workspace_dir=options.workspace_dir or directory.absolute().parent / "workspace",
        config_dir=directory,
        state_dir=state_dir,
        name=options.name or workspace_id,
        description=_description(options),
        announce=log.info,
        own_url=own_url,
        listener=listener,
        max_tasks=_max_tasks(options.max_tasks),
    )


def _connect_settings(options: argparse.Namespace) -> Settings:
    """Raises AgentExit."""
    workspace_id = _workspace_id(options)
    platform_url = _platform_url(options.url, "--url")
    token = _token(options.token or os.environ.get("MOLECULE_WORKSPACE_TOKEN") or "")
    state_dir = _state_dir(options.state_dir or Path.home() / ".workspace-agent" / workspace_id)
    return Settings(
        platform_url=platform_url,
        workspace_id=workspace_id,
        credentials=Credentials(token=token),
        script=_script(options),
        heartbeat_s=_seconds(options.heartbeat_seconds),
        poll_s=_seconds(options.poll_seconds),
        workspace_dir=options.workspace_dir or state_dir / "workspace",
        state_dir=state_dir,
        name=options.name or workspace_id,
        description=_description(options),
        announce=lambda line: print(line, flush=True),
    )


def _workspace_id(options: argparse.Namespace) -> str:
    text = options.workspace or os.environ.get("WORKSPACE_ID") or ""
    try:
        return str(UUID(text))
    except ValueError:
        _usage("a workspace id is needed: --workspace UUID or WORKSPACE_ID")


def _platform_url(option: str | None, name: str) -> str:
    url = option or os.environ.get("PLATFORM_URL") or os.environ.get("MOLECULE_URL") or ""
    if not url:
        _usage(f"the control plane's address is needed: {name} or PLATFORM_URL")
    try:
        return checked_base_url(url)
    except ValueError as error:
        _usage(f"{name} or PLATFORM_URL: {error}")


def _token(given: str) -> str:
    """The token itself, or that of `@file`. No error repeats it."""
    if not given:
        _usage("a token is needed: MOLECULE_WORKSPACE_TOKEN, --token @FILE or --token TOKEN")
    try:
        token = checked_secret(
            Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
        )
    except (OSError, UnicodeDecodeError):
        _usage("the token file cannot be read")
    except ValueError as error:
        _usage(f"token: {error}")
    return token or _usage("the token is empty")


def _script(options: argparse.Namespace) -> Script:
    if options.reply == "script" and options.script is None:
        _usage("--reply script needs --script FILE.json")
    if options.script is None or options.reply == "echo":
        return Script()
    try:
        return load_script(options.script)
    except ValueError as error:
        _usage(str(error))


def _state_dir(directory: Path) -> Path:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _usage(f"{directory}: {error.strerror} (--state-dir)")
    return directory


def _seconds(value: float) -> float:
    return value if 0 < value <= 86_400 else _usage("an interval is a number of seconds, at most a day")


def _max_tasks(value: int | None) -> int | None:
    return value if value is None or value > 0 else _usage("--max-tasks is at least 1")


def _port(option: int | None) -> int:
    text = str(option) if option is not None else os.environ.get("A2A_PORT") or "8000"
    return int(text) if text.isdecimal() else _usage("a port is a number: --port or A2A_PORT")


def _description(options: argparse.Namespace) -> str:
    return options.description or os.environ.get("MOLECULE_AGENT_ROLE") or ""


def _url_of(listener: socket.socket) -> str:
    """An address others can use: one that means "every interface" is replaced by this machine's name."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = os.environ.get("HOSTNAME") or socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _usage(message: str) -> NoReturn:
    raise AgentExit(ExitCode.USAGE, message)


def _complain(message: str, code: ExitCode = ExitCode.USAGE) -> int:
    print(f"agent: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    exit_code = int(main())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # a thread stuck in a network call must not hold, or spoil, the end
