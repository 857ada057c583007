"""What `service install` shows while requirements are locked and environments are built."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from dcm_processor.cli.output import printable


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], object]]:
    """A line on a terminal's stderr that says what goes on, gone at the end; elsewhere nothing is shown."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(printable(text)))
