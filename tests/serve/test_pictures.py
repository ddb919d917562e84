"""What a request can make the server open: nothing but its own bytes, unless it is allowed."""

import io
import os
import struct
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import PIL.Image
import pytest

from lfpc_jax.serve import pictures
from lfpc_jax.serve.pictures import Allowed
from lfpc_jax.serve.refused import Refused
from support.served import data_url, png


def taking(amount):
    return None


def opened(name, **how):
    return Allowed(**{"pixels": 1_000_000, "size": 1 << 20, "seconds": 2.0} | how).open(
        name, taking
    )


def refused(name, **how):
    with pytest.raises(Refused) as error:
        opened(name, **how)
    return error.value.status, error.value.code


@contextmanager
def host(reply):
    """A server on loopback that notes what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            reply(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()


def sends(contents, status=200, **headers):
    def reply(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(contents)))
        handler.end_headers()
        handler.wfile.write(contents)

    return reply


# ------------------------------------------------------------------ data URLs


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_that_are_read(kind):
    out = io.BytesIO()
    PIL.Image.new("RGB", (20, 10), "red").save(out, kind)
    image = opened(data_url(out.getvalue(), f"image/{kind.lower()}"))
    assert (image.size, image.mode) == ((20, 10), "RGB")


def test_formats_whose_readers_run_programs_or_are_rare_are_not_opened(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    out = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(out, "TIFF")
    for contents in (eps, out.getvalue(), b"<svg/>", b"", b"\x89PNG\r\n\x1a\n"):
        assert refused(data_url(contents))[0] == 400


def test_a_bomb_is_refused_by_its_head():
    """A picture of 30,000 x 30,000 pixels in 110 kB."""
    rows = zlib.compress(b"\0" * (30_000 * (1 + 30_000 // 8)), 9)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 200_000
    taken = []
    with pytest.raises(Refused) as error:
        Allowed(pixels=50_000_000, size=1 << 20).open(data_url(bomb), taken.append)
    assert (error.value.status, error.value.code, taken) == (400, "image_too_large", [])


@pytest.mark.seconds
def test_texts_that_unpack_without_end_in_a_png_are_refused():
    text = zlib.compress(b"a" * (200 << 20), 9)
    data = b"k\0\0" + text
    chunk = (
        struct.pack(">I", len(data))
        + b"zTXt"
        + data
        + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    )
    whole = png(20, 10)
    assert refused(data_url(whole[:33] + chunk + whole[33:]))[0] == 400


def test_memory_is_taken_before_pixels_are():
    def full(amount):
        raise Refused(429, "full", code="server_busy")

    with pytest.raises(Refused) as error:
        Allowed(pixels=1_000_000, size=1 << 20).open(data_url(png()), full)
    assert error.value.status == 429


@pytest.mark.parametrize("damage", range(40))
def test_damaged_pictures_are_refused_or_read(damage):
    contents = bytearray(png(40, 30))
    contents[damage * 97 % len(contents)] ^= 0x55
    try:
        status = opened(data_url(bytes(contents))).mode
    except Refused as error:
        status = error.status
    assert status in (400, "RGB")


def test_strips_are_refused():
    assert refused(data_url(png(401, 2)))[1] == "invalid_image"


# ------------------------------------------------------------------ addresses and files


@pytest.mark.parametrize("name", [
    "file:///etc/passwd", "file:/etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "ftp://host/a.png",
    "http://127.0.0.1/a.png", "http://localhost/a.png", "http://169.254.169.254/latest/meta-data",
    "http://[::1]/a.png", "http://10.0.0.1/a.png", "http://0/a.png", "https://example.com/a.png",
    "http://2130706433/", "http://[::ffff:127.0.0.1]/", "gopher://127.0.0.1/", "data:text/html,hi",
    "data:image/png,AAAA", "data:image/png;base64,@@@", "", "data:", "http://[", "javascript:1",
])  # fmt: skip
def test_nothing_is_opened_that_is_not_allowed(name, monkeypatch):
    def never(*_, **__):
        raise AssertionError("something was opened")

    for place in ("socket.create_connection", "socket.getaddrinfo", "os.open", "builtins.open"):
        monkeypatch.setattr(place, never)
    assert refused(name)[0] in (400, 403)


def test_a_host_that_is_allowed_by_its_address_is_asked():
    with host(sends(png())) as (port, asked):
        image = opened(f"http://127.0.0.1:{port}/a.png?b=c", hosts=[f"127.0.0.1:{port}"])
        assert image.size == (160, 120)
        assert asked == ["/a.png?b=c"]
        assert refused(f"http://127.0.0.1:{port + 1}/", hosts=[f"127.0.0.1:{port}"])[0] == 403
        assert refused(f"http://user:pass@127.0.0.1:{port}/", hosts=[f"127.0.0.1:{port}"])[0] == 400
        assert len(asked) == 1


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "192.168.0.9", "169.254.169.254", "::1", "0.0.0.0", "::ffff:127.0.0.1",
    "fd00::1", "224.0.0.1", "100.64.0.1",
])  # fmt: skip
def test_a_name_that_leads_to_a_private_address_is_not_followed(address, monkeypatch):
    found = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr("socket.create_connection", lambda *_: pytest.fail("connected"))
    status, code = refused("http://pictures.example/a.png", hosts=["pictures.example"])
    assert (status, code) == (403, "image_url_not_allowed")


def test_the_address_that_was_looked_up_is_the_one_that_is_asked(monkeypatch):
    """Not a second look-up's, which could give another."""
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("93.184.216.34", 80))]
    )
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", connect)
    assert refused("http://pictures.example/", hosts=["pictures.example"])[1] == "invalid_image"
    assert asked == [("93.184.216.34", 80)]


def test_redirects_are_not_followed():
    with host(sends(png())) as (there, asked):
        where = f"http://127.0.0.1:{there}/secret.png"
        with host(sends(b"", 302, Location=where)) as (port, first):
            assert refused(f"http://127.0.0.1:{port}/", hosts=[f"127.0.0.1:{port}"])[0] == 400
            assert (len(first), asked) == (1, [])


def test_a_host_that_sends_too_much_or_too_slowly():
    def slowly(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b".")
            threading.Event().wait(0.05)

    with host(sends(b"." * 5000)) as (port, _):
        found = refused(f"http://127.0.0.1:{port}/", hosts=[f"127.0.0.1:{port}"], size=4000)
        assert found[1] == "image_too_large"
    with host(slowly) as (port, _):
        found = refused(f"http://127.0.0.1:{port}/", hosts=[f"127.0.0.1:{port}"], seconds=0.5)
        assert found[1] == "invalid_image"


def test_files_of_one_folder(tmp_path):
    folder, outside = tmp_path / "pictures", tmp_path / "secret.png"
    folder.mkdir()
    for path in (folder / "a b.png", outside):
        path.write_bytes(png())
    (folder / "link.png").symlink_to(outside)
    (folder / "sub").mkdir()
    assert opened(f"{folder.as_uri()}/a%20b.png", folder=folder).size == (160, 120)
    inside = folder.as_uri()
    for name in (outside.as_uri(), f"{inside}/../secret.png", f"{inside}/link.png",
                 f"{inside}/%2e%2e/secret.png", "file:///etc/passwd",
                 f"file://host{folder}/a.png", f"{inside}-x/a.png"):  # fmt: skip
        assert refused(name, folder=folder)[0] == 403, name
    for name in ("none.png", "sub", "a%00b.png"):
        assert refused(f"{folder.as_uri()}/{name}", folder=folder)[0] == 400, name


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert refused((tmp_path / "pipe.png").as_uri(), folder=tmp_path) == (400, "invalid_image")


def test_the_formats_are_few():
    assert not {"EPS", "PDF", "TIFF", "WMF"} & set(pictures.FORMATS)
