"""A chat-completions server whose every reply a test decides."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[[BaseHTTPRequestHandler], None]


def send(handler, status, body, headers=()):
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def say(content) -> Behaviour:
    body = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return raw(json.dumps(body).encode())


def raw(body: bytes) -> Behaviour:
    return lambda handler: send(handler, 200, body)


def status(code: int, *headers: tuple[str, str], body: bytes = b"no") -> Behaviour:
    return lambda handler: send(handler, code, body, headers)


def late(seconds: float, then: Behaviour) -> Behaviour:
    def behave(handler):
        handler.server.closing.wait(seconds)
        then(handler)

    return behave


def hang_up(handler) -> None:
    handler.close_connection = True


def cut_short(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')


def drip(handler) -> None:
    """A byte now and then: no single read ever takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_headers(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b".")
        handler.wfile.flush()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            index = len(server.requests)
            server.requests.append((time.monotonic(), self.path, dict(self.headers), body))
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        try:
            server.behave(index, server.asked(body))(self)
        finally:
            with server.lock:
                server.open -= 1

    def log_message(self, format, *args):
        pass


class JudgeServer(ThreadingHTTPServer):
    """`behave(index, claim)` chooses what is done with the request of that index."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.requests = []
        self.open = self.most_open = 0
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def asked(self, body):
        """The claim of a request."""
        return json.loads(body["messages"][1]["content"])

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Clients that give up are what is tested."""

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()
