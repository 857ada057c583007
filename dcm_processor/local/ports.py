"""Whether the ports that local mode needs are free, and who has those that are not."""

import contextlib
import pwd
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dcm_processor.local.processes import name_of, stack_of

_LISTEN = "0A"  # the state in /proc/net/tcp


@dataclass(frozen=True)
class Port:
    """A port of the stack: the key of .env that sets it, and where its server listens.

    `address_key` sets that, where a key does.
    """

    key: str
    number: int
    address: str
    address_key: str = ""


def faults(ports: Iterable[Port]) -> list[str]:
    """One line for each port that cannot be had; empty when all can."""
    found = []
    seen: dict[int, str] = {}
    for port in ports:
        if port.number in seen:
            found.append(
                f"{port.key} and {seen[port.number]} are both {port.number}; give one of them another in .env.local"
            )
            continue
        seen[port.number] = port.key
        if port.address_key and (reason := _no_address(port.address)):
            found.append(f"{port.address_key}={port.address}: {reason}; set another {port.address_key} in .env.local")
        elif reason := _refusal(port):
            found.append(f"{port.key}={port.number}: {reason}; set another {port.key} in .env.local")
    return found


def _no_address(address: str) -> str | None:
    """Why nothing of this machine can listen there, whatever the port."""
    with _probe(address) as probe:
        try:
            probe.bind((address, 0))
        except (OSError, UnicodeError) as error:
            return f"is no address of this machine ({getattr(error, 'strerror', None) or error})"
    return None


def _probe(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def _refusal(port: Port) -> str | None:
    with _probe(port.address) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: a port just left is free
        try:
            probe.bind((port.address, port.number))
            probe.listen(1)
        except PermissionError:
            return "this user may not open ports below 1024"
        except OSError as error:
            holder = _holder(port.number)
            return f"taken by {holder}" if holder else f"{port.address} cannot be used ({error.strerror})"
    return None


def _holder(number: int) -> str | None:
    """Who listens on a port, as precisely as this user may know."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
                    return _describe(user=int(fields[7]), inode=fields[9])
    return None


def _describe(user: int, inode: str) -> str:
    name = _user_name(user)
    hint = " (the system's own Orthanc: `systemctl disable --now orthanc` ends it)" if name == "orthanc" else ""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()) == f"socket:[{inode}]":
                pid = int(entry.parts[2])
                other = stack_of(pid)
                return f"process {pid}, {name_of(pid)}" + (f" of the dcm-processor in {other}" if other else hint)
    return f"a process of user {name}{hint}"


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
