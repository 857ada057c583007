"""The environment that the programs get, and the file that supervisord reads; values only."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dcm_processor.local.processes import MARK
from dcm_processor.local.programs import Program
from dcm_processor.settings import CHECKOUT, Settings

SOCKET = "DCM_PROCESSOR_SOCKET"
"""The environment variable that tells supervisord where its socket is."""


def environment(settings: Settings, inherited: Mapping[str, str], socket: Path) -> dict[str, str]:
    """What all programs of a stack get: the settings as they are at its start, beside what they inherit."""
    chosen = settings.model_dump(mode="json", exclude_none=True)
    exported = {key: " ".join(value) if isinstance(value, list) else str(value) for key, value in chosen.items()}
    exported |= {key: str(getattr(settings, key.lower())) for key in ("REGISTRY", "MODULES", "DATA", "LOGS")}
    own_hosts = [
        "127.0.0.1",
        "localhost",
        urlsplit(settings.orthanc_url).hostname,
        urlsplit(settings.redis_url).hostname,
    ]
    direct = [*(settings.NO_PROXY or inherited.get("no_proxy", "")).split(","), *filter(None, own_hosts)]
    no_proxy = ",".join(dict.fromkeys(host.strip() for host in direct if host.strip()))
    return {
        **inherited,
        **exported,
        "MODE": "local",
        "NO_PROXY": no_proxy,  # proxies are for the net, never for our own hosts
        "no_proxy": no_proxy,
        "DCM_PROCESSOR_HOME": str(CHECKOUT),
        "TCP_NODELAY": "1",  # for Orthanc's DCMTK: with Nagle's algorithm each C-STORE waits 40 ms for a delayed ACK
        "HOOK_URL": f"{settings.scheduler_url}/stable-study",
        "HOOK_TOKEN_FILE": str(settings.secrets / "hook_token"),
        SOCKET: str(socket),
        MARK: str(settings.BASEDIR),
    }


def supervisord_conf(programs: Iterable[Program], umask: int) -> str:
    """supervisord's configuration; paths and secrets come from its environment, never from this text."""
    sections = [
        "[supervisord]",
        "logfile = %(ENV_LOGS)s/supervisord.log",
        "logfile_maxbytes = 10MB",
        "logfile_backups = 2",
        "pidfile = %(ENV_BASEDIR)s/run/supervisord.pid",
        "childlogdir = %(ENV_LOGS)s",
        f"umask = {umask:03o}",
        "[unix_http_server]",
        f"file = %(ENV_{SOCKET})s",
        "chmod = 0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        sections += [
            f"[program:{program.name}]",
            # Should supervisord be killed, the kernel asks its programs to end: nothing runs on unattended.
            f"command = setpriv --pdeathsig TERM -- {_command(program.command)}",
            f"priority = {program.order}",
            "autorestart = true",
            "startsecs = 1",
            "startretries = 1000000",  # never give up; supervisord waits a second longer each time
            f"stopwaitsecs = {program.patience}",
            "stopasgroup = false",
            f"killasgroup = {str(program.kill_group).lower()}",
            "redirect_stderr = true",
            f"stdout_logfile = %%(ENV_LOGS)s/{program.name}.log",  # %% since this value alone is expanded twice
            "stdout_logfile_maxbytes = 10MB",
            "stdout_logfile_backups = 4",
        ]
    return "\n".join(sections) + "\n"


def _command(arguments: Iterable[str]) -> str:
    """As supervisord wants it: for shlex, with % doubled and no white space before what would begin a comment."""
    quoted = shlex.join(arguments).replace("%", "%%")
    return re.sub(r"(\s)([;#])", r"\1''\2", quoted)
