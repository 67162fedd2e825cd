"""Downloads, from a server on this machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError, ResourceError
from sais.io.download import download_image
from sais.io.images import as_image

PIXELS = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


class Handler(BaseHTTPRequestHandler):
    """Answers with an image, a page, a redirect, a cut-off answer or an error, by path."""

    def do_GET(self) -> None:
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "PNG")
        redirects = {"/moved": "/a%20b.png", "/to_file": "file:///etc/hostname", "/to_ftp": "ftp://127.0.0.1/x"}
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
            return
        if self.path == "/none.png":
            self.send_error(404)
            return
        content = b"<!DOCTYPE html><html></html>" if self.path == "/page.jpg" else file.getvalue()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + (100 if self.path == "/cut.png" else 0)))
        self.end_headers()
        if self.path == "/slow.png":
            for byte in content[:-1]:
                self.wfile.write(bytes([byte]))
                threading.Event().wait(0.02)
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Return the address of a server on this machine."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize("path", ["/a%20b.png", "/moved"])
def test_as_image_downloads_addresses(server: str, path: str) -> None:
    np.testing.assert_array_equal(as_image(server + path), PIXELS)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.png", "HTTP error 404"),
        ("/page.jpg", "a web page"),
        ("/to_file", "redirect|Redirect|not allowed"),
        ("/to_ftp", "redirect|Redirect|not allowed"),
        ("/cut.png", "cannot be downloaded|corrupt"),
    ],
)
def test_download_image_names_what_is_wrong(server: str, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        download_image(server + path)
    assert str(caught.value).startswith(server + path)
    assert "\n" not in str(caught.value)


def test_download_image_stops_at_the_size_limit(server: str) -> None:
    with pytest.raises(ResourceError, match="larger than"):
        download_image(f"{server}/a.png", max_bytes=20)


def test_download_image_stops_at_the_time_limit(server: str) -> None:
    """A byte now and then keeps within the timeout of each part."""
    with pytest.raises(ResourceError, match="takes more than"):
        download_image(f"{server}/slow.png", max_seconds=0.1)


def test_download_image_without_a_server_raises() -> None:
    with pytest.raises(InputError, match="network connection"):
        download_image("http://127.0.0.1:9/a.png", timeout=5)
    with pytest.raises(InputError):
        download_image("http://[bad/a.png")


def test_download_image_escapes_letters_and_spaces(server: str) -> None:
    assert download_image(f"{server}/caf\u00e9 1.png")
