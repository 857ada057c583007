"""The reader of tutorials: what it takes for a step, and when it says that a command did not print what it should."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tutorial import Command, File, Shell, matches, steps

DOCUMENT = """# A tutorial

```python a/b.py
x = 1

y = "```"
```

```console
$ ls
a
$ pwd
```

## With a GPU (not run here)

```python
import torch
```

### Part of it

```console
$ nvidia-smi
```

## Later

```console
$ true
```
"""


def test_the_steps_of_a_document_in_order_without_what_is_not_run() -> None:
    assert list(steps(DOCUMENT)) == [
        File(3, "a/b.py", 'x = 1\n\ny = "```"\n'),
        Command(10, "ls", "a"),
        Command(12, "pwd", ""),
        Command(30, "true", ""),
    ]


@pytest.mark.parametrize(
    "block", ["```python\n1\n```\n", "```\nls\n```\n", "```console\nls\n```\n", "```console\n$ ls\n"]
)
def test_a_block_that_nobody_would_check_is_refused(block: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        list(steps(block))


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("", "", True),
        ("", "a\n", False),
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\n", False),
        ("a  b", "a      b \n", True),
        ("took … s", "took 1.5 s\n", True),
        ("took … s", "took 1\n2 s\n", False),
        ("a\n…\nb", "a\nb\n", True),
        ("a\n…\nb", "a\n1\n2\nb\n", True),
        ("a\n…", "b\n", False),
        ("(.*)", "x\n", False),
    ],
)
def test_what_was_printed_is_compared_with_what_is_expected(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same


class TestShell:
    @pytest.fixture
    def shell(self, tmp_path: Path) -> Iterator[Shell]:
        shell = Shell(tmp_path, os.environ | {"HOME": str(tmp_path)})
        yield shell
        shell.close()

    def test_folder_and_variables_stay(self, shell: Shell, tmp_path: Path) -> None:
        assert shell.run("mkdir sub && cd sub; x='a b'", 10) == (0, "")
        assert shell.folder == tmp_path / "sub"
        assert shell.run('echo "$x"; echo wrong >&2; (exit 3)', 10) == (3, "a b\nwrong\n")

    def test_a_command_cannot_read_the_commands_after_it(self, shell: Shell) -> None:
        assert shell.run("cat", 10) == (0, "")

    def test_one_that_does_not_end_is_named(self, shell: Shell) -> None:
        with pytest.raises(AssertionError, match="sleep 60"):
            shell.run("echo begun; sleep 60", 0.2)
