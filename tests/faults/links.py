"""The network between the programs: TCP proxies that can be told to break."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from enum import StrEnum
from typing import Any

_BLOCK = 65536


class Mode(StrEnum):
    """What a link does: `drop` closes what is open and whatever comes, `hang` takes all and passes nothing on,
    `refuse` does not listen."""

    PASS = "pass"
    DROP = "drop"
    HANG = "hang"
    REFUSE = "refuse"


class Link:
    """One proxy: what connects to `port` reaches `target`, while the mode is PASS."""

    def __init__(self, network: "Network", name: str, target: int) -> None:
        self.name, self.target = name, target
        self.mode = Mode.PASS
        self.open = 0
        """Connections that pass through it now."""
        self._network = network
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listening.getsockname()[1])
        self._server: asyncio.Server | None = None
        self._goes_on = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listening)
        self._goes_on.set()

    async def change(self, mode: Mode) -> None:
        if mode is self.mode:
            return
        if self.mode is Mode.REFUSE:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        was, self.mode = self.mode, mode
        (self._goes_on.clear if mode is Mode.HANG else self._goes_on.set)()
        if mode is Mode.REFUSE and self._server is not None:
            self._server.close()
        if mode in (Mode.DROP, Mode.REFUSE) or was is Mode.HANG:  # what hung has timed out on one side or the other
            for task in list(self._tasks):
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            if self.mode is Mode.PASS:
                await self._pass(reader, writer)
            elif self.mode is Mode.HANG:
                await self._goes_on.wait()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            _close(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        halves = [asyncio.create_task(self._copy(reader, back)), asyncio.create_task(self._copy(there, writer))]
        try:
            await asyncio.wait(halves, return_when=asyncio.ALL_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            _close(back)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while block := await reader.read(_BLOCK):
                await self._goes_on.wait()
                writer.write(block)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()


def _close(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):  # the other side, or the loop, may be gone
        writer.close()


class Network:
    """All links, in a thread of their own."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def add(self, name: str, target: int) -> Link:
        link = self.links[name] = Link(self, name, target)
        self._do(link.begin())
        return link

    def change(self, name: str, mode: Mode) -> None:
        self._do(self.links[name].change(mode))

    def heal(self) -> None:
        for name in self.links:
            self.change(name, Mode.PASS)

    def close(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        for link in self.links.values():
            await link.change(Mode.REFUSE)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _do(self, action: Coroutine[Any, Any, None]) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(action, self._loop)
        future.result(10)
