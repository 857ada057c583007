"""A git repository, and a host that serves it over HTTP(S) on the loopback interface (git-http-backend(1))."""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_READER = base64.b64encode(b"reader:secret").decode()
_IDENTITY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "protocol.file.allow=always")


def git(folder: Path, *words: str | Path) -> str:
    """What git prints."""
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *_IDENTITY, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


class WorkTree:
    """A work tree, and the bare repository beside it that others fetch from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.bare = folder / "services.git"
        self.folder.mkdir(parents=True)
        git(self.folder, "init", "--quiet", "-b", "main")
        git(folder, "init", "--quiet", "--bare", "-b", "main", self.bare)
        for key in ("http.uploadpack", "uploadpack.allowFilter"):
            git(self.bare, "config", key, "true")
        git(self.folder, "remote", "add", "origin", self.bare)

    def commit(self, tag: str | None = None) -> str:
        """Commit all there is and push it; returns the commit."""
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", "a change")
        if tag is not None:
            git(self.folder, "tag", "-a", "-m", tag, tag)
        git(self.folder, "push", "--quiet", "--tags", "origin", "HEAD")
        return git(self.folder, "rev-parse", "HEAD")

    def url(self, ref: str = "", subdirectory: str = "") -> str:
        """The source that it is."""
        return f"git+file://{self.bare}" + (ref and f"@{ref}") + (subdirectory and f"#subdirectory={subdirectory}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    private = False
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.asked.append(self.path)
        if self.private and self.headers.get("Authorization") != f"Basic {_READER}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        if "://" in path:  # to a proxy
            path = "/" + path.split("/", 3)[3]
        env: Mapping[str, str] = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=env, capture_output=True, timeout=60, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self.send_response(int(fields.pop("Status", "200 OK").split()[0]))
        for key, value in fields.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Host:
    """Where it listens, and what it was asked for."""

    def __init__(self, port: int, scheme: str, asked: list[str]) -> None:
        self.port = port
        self.scheme = scheme
        self.asked = asked

    def url(self, name: str, ref: str = "") -> str:
        """The source that a repository of that name is."""
        return f"git+{self.scheme}://localhost:{self.port}/{name}" + (ref and f"@{ref}")


@contextmanager
def serving(root: Path, *, private: bool = False, tls: Path | None = None) -> Iterator[Host]:
    """Serve the repositories in a folder; `tls`: a folder with server.crt and server.key.

    `private`: to the user `reader` with the password `secret`, and nobody else.
    """
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"root": root, "private": private, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "server.crt", tls / "server.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Host(server.server_address[1], "https" if tls else "http", asked)
        finally:
            server.shutdown()
            thread.join()
