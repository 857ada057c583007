"""What git says where it fails (LC_ALL=C), in words that say what to do."""

import re

_LONGEST = 300
_FULL = re.compile(r"File too large|signal 25|No space left|out of memory|Cannot allocate memory|Quota exceeded")
_MEANINGS = (
    (
        r"cannot run ssh|ssh: command not found|ssh: not found",
        "ssh is missing here, as it is in containers; clone the repository yourself and name its folder",
    ),
    (
        r"could not read (Username|Password)|terminal prompts disabled|Authentication failed|returned error: 40[13]",
        "the host asks for a user and password, or has no such repository; have git know them on this machine (a "
        "credential helper, or git+ssh with a key)",
    ),
    (
        r"Permission denied|Host key verification failed|Too many authentication failures",
        "ssh is not let in; it uses the key, the agent and known_hosts of the user who installs, and asks nothing",
    ),
    (
        r"Could not resolve (host|hostname|proxy)|Name or service not known",
        "the host's name is not known here; correct it, or name the proxy by HTTPS_PROXY in .env.local",
    ),
    (
        r"SSL certificate|certificate verif|server verification failed",
        "the host's certificate is not trusted; name the authority that signed it by EXTRA_CA_FILE in .env.local",
    ),
    (
        r"couldn't find remote ref|unadvertised object|no matching remote head|not our ref|unknown revision",
        "it has no such branch, tag or commit",
    ),
    (
        r"dubious ownership",
        "it belongs to another user; git takes it where `git config --global --add safe.directory PATH` was said",
    ),
    (
        r"not found|does not exist|does not appear to be a git repository|not a git repository|No such file",
        "there is no repository (any more), or it is not for everybody; correct the address",
    ),
    (
        r"Connection (refused|timed out|reset)|Failed to connect|Operation too slow|timed out|Network is unreachable",
        "the host does not answer; try again later, or name the proxy by HTTPS_PROXY in .env.local",
    ),
)


def reason(said: str) -> str | None:
    """Why git failed; None where there was too much of it, or no room."""
    if _FULL.search(said):
        return None
    lines = ["".join(filter(str.isprintable, line)).strip() for line in said.splitlines()]
    words = [line for line in lines if line and not line.startswith("hint:")] or ["no word"]
    last = next((line for line in words if line.startswith(("fatal:", "error:"))), words[-1])[:_LONGEST]
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return f"{meaning} (git: {last})"
    return f"git failed: {last}"
