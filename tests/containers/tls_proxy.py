"""A proxy as hospitals have them: it wants a password, opens TLS, and writes down what goes through it.

A program of its own, of standard library and pip alone, in a container of tests/containers/proxy.py. /proxy holds
leaf.crt and leaf.key, with which it stands in for whatever host is asked for, log, one line a request, and wheels,
those it handed out. The host mirror.test is a mirror of PyPI that wants a password of its own.
"""

import base64
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from pip._internal.models.index import PyPI

PORT = 3128
USER, PASSWORD = "ward", "proxy-secret"
MIRROR, MIRROR_USER, MIRROR_PASSWORD = "mirror.test", "reader", "mirror-secret"
_FOLDER = Path("/proxy")
_OF_ONE_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "transfer-encoding", "te"}
_writing = Lock()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Handler(BaseHTTPRequestHandler):
    """One connection of a client: CONNECT and then what is in the tunnel, or requests with whole URLs."""

    protocol_version = "HTTP/1.1"
    server: "Server"
    tunnel = ""  # https://host, once it is open

    def do_CONNECT(self) -> None:
        if not self._knows_the_password():
            return
        self.send_response(200)
        self.end_headers()
        try:
            self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        except OSError as error:
            note(f"REFUSED {self.path} {error}")
            self.close_connection = True
            return
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.tunnel = f"https://{self.path.removesuffix(':443')}"

    def do_GET(self) -> None:
        if not self.tunnel and not self._knows_the_password():
            return
        url = self.tunnel + self.path
        parts = urlsplit(url)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in _OF_ONE_HOP}
        host = parts.hostname or ""
        if host == MIRROR:
            if headers.pop("Authorization", headers.pop("authorization", "")) != basic(MIRROR_USER, MIRROR_PASSWORD):
                self._answer(url, 401, [("WWW-Authenticate", "Basic")], b"")
                return
            host = PyPI.netloc
        headers["Host"] = host
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        upstream = kind(host, parts.port, timeout=60)
        try:
            upstream.request(self.command, f"{parts.path}?{parts.query}".rstrip("?"), headers=headers)
            answer = upstream.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            self._answer(url, 502, [], f"{error}\n".encode())
            return
        finally:
            upstream.close()
        if answer.status == 200 and parts.path.endswith(".whl") and self.command == "GET":
            (_FOLDER / "wheels" / Path(unquote(parts.path)).name).write_bytes(body)
        self._answer(url, answer.status, answer.getheaders(), body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, url: str, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        note(f"{self.command} {url} {status}")
        self.send_response_only(status)
        length = str(len(body))
        for key, value in headers:
            if key.lower() == "content-length":
                length = value
            elif key.lower() not in _OF_ONE_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    def _knows_the_password(self) -> bool:
        if self.headers.get("Proxy-Authorization") == basic(USER, PASSWORD):
            return True
        self._answer(self.path, 407, [("Proxy-Authenticate", "Basic")], b"")
        return False

    def log_message(self, *_: object) -> None:
        return


class Server(ThreadingHTTPServer):
    """Each connection in a thread of its own."""

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def note(line: str) -> None:
    with _writing, (_FOLDER / "log").open("a") as log:
        log.write(line + "\n")


def main() -> None:
    Server.tls.load_cert_chain(_FOLDER / "leaf.crt", _FOLDER / "leaf.key")
    with Server(("", PORT), Handler) as server:
        note("ready")
        server.serve_forever()


if __name__ == "__main__":
    main()
