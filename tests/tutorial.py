"""A tutorial that can be executed: the files it has its reader write, and the commands it shows with what they print.

In Markdown, outside of sections whose heading ends with "(not run here)":

- a fenced block whose opening line names a language and a path, ```python lungs/worker.py, has the reader write a file;
- a `console` block has commands after `$ `, each followed by what it prints; `…` stands for anything within a line, and
  alone on a line for any number of lines. Runs of spaces and tabs count as one.
"""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_NOT_RUN = "(not run here)"
_END = "--end-of-command--"


@dataclass(frozen=True)
class File:
    """The reader writes a file; `path` is relative to the folder he is in."""

    line: int  # of the document, from 1
    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """The reader enters a command, which succeeds and prints what is expected."""

    line: int  # of the document, from 1
    text: str
    expected: str


def steps(document: str) -> Iterator[File | Command]:
    """What the reader does, in order; ValueError for a block of which nobody would notice that it is wrong."""
    left_out = 0  # the level of the heading that leaves out what is below it
    block: tuple[int, str] | None = None
    content: list[str] = []
    for number, line in enumerate(document.splitlines(), 1):
        if block is None and (heading := re.match("(#+) (.*)", line)):
            level = len(heading[1])
            if not left_out or level <= left_out:
                left_out = level if heading[2].endswith(_NOT_RUN) else 0
        elif line.startswith("```"):
            if block is None:
                block, content = (number, line[3:].strip()), []
                continue
            if not left_out:
                yield from _steps_of(*block, content)
            block = None
        elif block is not None:
            content.append(line)
    if block is not None:
        raise ValueError(f"line {block[0]}: the block does not end")


def _steps_of(line: int, opening: str, content: list[str]) -> Iterator[File | Command]:
    language, _, path = opening.partition(" ")
    if path:
        yield File(line, path, "".join(f"{each}\n" for each in content))
    elif language == "console":
        starts = [index for index, each in enumerate(content) if each.startswith("$ ")]
        if not starts or starts[0] != 0:
            raise ValueError(f"line {line}: a console block begins with a command, as `$ ls`")
        for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
            yield Command(line + 1 + start, content[start][2:], "\n".join(content[start + 1 : end]))
    else:
        raise ValueError(f"line {line}: a block of {opening or 'no language'} is neither a file nor commands")


def matches(expected: str, printed: str) -> bool:
    """Whether a command printed what the document says."""
    pattern = ""
    for line in _plain(expected).splitlines():
        if line == "…":
            pattern += "(?:[^\n]*\n)*"
        else:
            pattern += "[^\n]*".join(re.escape(part) for part in line.split("…")) + "\n"
    found = _plain(printed)
    return re.fullmatch(pattern, found + "\n" if found else "") is not None


def _plain(text: str) -> str:
    return "\n".join(re.sub("[ \t]+", " ", line).strip() for line in text.strip().splitlines())


class Shell:
    """One bash, which keeps its folder and its variables from command to command."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._home = Path(env["HOME"])
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, to end all of it
        )

    def run(self, command: str, seconds: float) -> tuple[int, str]:
        """Exit status and what was printed, on both streams."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null; printf '%s %s\\n' {_END} $?\n".encode())
        self._bash.stdin.flush()
        printed, deadline = b"", time.monotonic() + seconds
        while not (end := re.search(rf"{_END} (\d+)\n\Z".encode(), printed)):
            printed += self._read(deadline, command, printed)
        return int(end[1]), printed[: end.start()].decode()

    def _read(self, deadline: float, command: str, printed: bytes) -> bytes:
        assert self._bash.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            if not selector.select(max(0, deadline - time.monotonic())):
                raise AssertionError(f"{command!r} does not end; it has printed\n{printed.decode()}")
        found = os.read(self._bash.stdout.fileno(), 65536)
        assert found, f"{command!r} ended the shell; it has printed\n{printed.decode()}"
        return found

    @property
    def folder(self) -> Path:
        """Where it is now."""
        return Path(f"/proc/{self._bash.pid}/cwd").resolve()

    def follow(self, document: str, name: str, seconds: float) -> int:
        """Do what a document says; each command has so many seconds. Returns how many commands it has.

        Raises AssertionError with the place in the document where something else comes of it.
        """
        commands = 0
        for step in steps(document):
            match step:
                case File():
                    path = self._home / step.path[2:] if step.path.startswith("~/") else self.folder / step.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(step.text)
                case Command():
                    commands += 1
                    status, printed = self.run(step.text, seconds)
                    where = f"{name}, line {step.line}: {step.text}"
                    assert status == 0, f"{where}\nended with {status}\n{printed}"
                    assert matches(step.expected, printed), (
                        f"{where}\nshould print\n{step.expected}\nand printed\n{printed}"
                    )
        return commands

    def close(self) -> None:
        """End it, and what it runs."""
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()
