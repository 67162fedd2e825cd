"""Malformed and hostile requests to `sais serve`: each kind makes one from a random generator.

An `Attack` has the bytes to send and the statuses that may be answered; 0 means that the connection is closed without
an answer. A 500 is never right.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image

from peers.fuzz.mutation import ODD_TEXTS, mutate_bytes

DECODED = frozenset({200, 400, 413, 415})
"""Statuses of changed images: some can be decoded."""
ODD_PATHS = (
    *("/../../etc/passwd", "/static/../app.py", "/static/%2e%2e/app.py", "/v1/examples/..%2f..%2fetc%2fpasswd"),
    *("/v1/examples/%00", "//evil.example/", "/v1/predict/", "/.git/config", "/static/" + "a/" * 2000, "/%ff"),
    *("*", "http://x/v1/models", "/static//etc/passwd", "/v1/models?" + "a=b&" * 2000),
)

CHUNKED = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
"""Head of a request whose body follows in chunks."""


@dataclass(frozen=True)
class Attack:
    """A request.

    Args:
        sent: bytes to send.
        statuses: statuses of the first answer that are right.
        finish: what the client does after it: "read" the answer, "abort" the connection, or send nothing more and
            "wait" until the server closes it.
    """

    sent: bytes
    statuses: frozenset[int]
    finish: str = "read"


@cache
def sample(kind: str = "JPEG") -> bytes:
    """Return a small image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((160, 120)).save(buffer, kind)
    return buffer.getvalue()


def post(body: bytes, content_type: str = "image/jpeg", query: str = "", extra: str = "") -> bytes:
    """Return a request of a prediction."""
    head = f"POST /v1/predict{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{extra}"
    return (head + f"Content-Length: {len(body)}\r\n\r\n").encode("latin-1", "replace") + body


def cut_image(rng: Random) -> Attack:
    """An image whose end is missing."""
    data = sample(rng.choice(("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")))
    return Attack(post(data[: rng.randrange(1, len(data))]), DECODED)


def changed_image(rng: Random) -> Attack:
    """An image with changed bytes."""
    return Attack(post(mutate_bytes(rng, sample(rng.choice(("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"))))), DECODED)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG file of a stated size with further chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@cache
def _compressed_zeros() -> bytes:
    return zlib.compress(bytes(30_000_000))


def bomb(rng: Random) -> Attack:
    """A small file that states a huge image, or whose metadata expand to much."""
    side = rng.choice((100_000, 20_000, 2**31 - 1))
    zeros = _compressed_zeros()
    files = (
        png(side, side),
        b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        b"P6 99999 99999 255\n" + bytes(100),
        png(16, 16, (b"iCCP", b"x\0\0" + zeros)),
        png(16, 16, (b"zTXt", b"x\0\0" + zeros)),
    )
    return Attack(post(rng.choice(files)), DECODED - {200})


def other_content(rng: Random) -> Attack:
    """Bytes that are no image, of any stated type."""
    bodies = (b"", b"%!PS-Adobe\n{} loop", b"<svg onload=alert(1)/>", b"PK\3\4" + bytes(50), rng.randbytes(500))
    types = ("image/jpeg", "image/svg+xml", "application/octet-stream", "text/html", "application/json", "a/b; c=\xe9")
    return Attack(post(rng.choice(bodies), rng.choice(types)), frozenset({400, 415}))


def deep_json(rng: Random) -> Attack:
    """JSON of great depth in the place of an image, or a form."""
    body = json.dumps(rng.random()).encode() + b"[" * rng.choice((100, 100_000))
    return Attack(post(body, rng.choice(("application/json", "image/png"))), frozenset({400, 415}))


def form(rng: Random) -> Attack:
    """A malformed form, or one with many or oddly named parts."""
    name = rng.choice(ODD_TEXTS).replace("\r", "").replace("\n", "")
    head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode("utf-8", "replace")
    good = head + sample() + b"\r\n"
    bodies = (
        good * 1000 + b"--b--\r\n",
        good,
        mutate_bytes(rng, good + b"--b--\r\n"),
        good.replace(b"images", b"model") + b"--b--\r\n",
        b"--b\r\n" + b"X: y\r\n" * rng.choice((10, 50_000)) + b"\r\n\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: " + b"a" * 100_000 + b"\r\n\r\n\r\n--b--\r\n",
        b"\r\n" * 100_000,
        b"--b--",
    )
    types = ("multipart/form-data; boundary=b", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 5000)
    attack = post(rng.choice(bodies), rng.choices(types, (8, 1, 1))[0])
    return Attack(attack, frozenset({200, 400, 413, 415, 422}))


def path_like_name(rng: Random) -> Attack:
    """A good image with the name of a file of the system: the answer is right, and no file is touched."""
    name = rng.choice(("../../etc/passwd", "/dev/zero", "C:\\windows\\x", "a\0b", "%2e%2e%2f", "\x1b[31m", "a" * 4000))
    head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
    body = head + sample() + b"\r\n--b--\r\n"
    return Attack(post(body, "multipart/form-data; boundary=b"), frozenset({200, 400}))


def odd_query(rng: Random) -> Attack:
    """Options that do not exist, or of a wrong type or range."""
    names = ("score", "masks", "max_detections", "classes", "model", "tile", "tta_flip", "trust", "path", "x" * 3000)
    values = ("nan", "-1", "1e999", "9" * 400, "%00", "%ff%fe", "../../etc/passwd", "[]", "a" * 8000, "null", "tr%75e")
    query = "?" + "&".join(f"{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.choice((1, 3))))
    return Attack(post(sample(), query=query), frozenset({200, 404, 422}))


def odd_path(rng: Random) -> Attack:
    """Addresses outside of the interface."""
    path = rng.choice(ODD_PATHS)
    method = rng.choice(("GET", "POST", "OPTIONS", "TRACE", "PROPFIND", "HEAD", "A" * 50))
    sent = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    return Attack(sent, frozenset({200, 307, 400, 401, 404, 405, 431}))


def foreign_host(rng: Random) -> Attack:
    """A host name of another page, as after DNS rebinding."""
    names = ("evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "x" * 5000, "", "[", "@", "a,b")
    host = rng.choice((*names, "localhost\r\nHost: evil.example"))
    path = rng.choice(("/", "/v1/models", "/metrics", "/v1/predict"))
    sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    return Attack(sent, frozenset({400, 421}))


def header_flood(rng: Random) -> Attack:
    """A head that is too large, or with odd headers."""
    heads = (
        b"".join(b"X-%d: y\r\n" % i for i in range(50_000)),
        b"X: " + b"y" * 200_000 + b"\r\n",
        b"Cookie: " + b"a=b; " * 20_000 + b"\r\n",
        b"X y: z\r\n",
        b": z\r\n",
        b" folded\r\n",
        b"X: \0\r\n",
    )
    start = b"GET / HTTP/1.1\r\nHost: localhost\r\n"  # a folded line continues the name of the host
    return Attack(start + rng.choice(heads) + b"\r\n", frozenset({0, 200, 400, 421, 431}))


def not_http(rng: Random) -> Attack:
    """Bytes of other protocols, and requests that contradict themselves."""
    return Attack(
        rng.choice(
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(300),
                rng.randbytes(300) + b"\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
                post(sample()).replace(b"Content-Length: ", b"Content-Length: -"),
                post(sample()).replace(b"Content-Length: ", b"Content-Length: 5\r\nContent-Length: "),
                CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
                CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
            )
        ),
        frozenset({0, 200, 400, 404, 415, 501, 505}),
    )


def slow_sender(rng: Random) -> Attack:
    """A head or a body that never ends: the connection is closed in time."""
    start = rng.choice((b"", b"GET / HT", post(sample())[: rng.randrange(1, 60)], post(sample())[:-10]))
    return Attack(start, frozenset({0, 408}), "wait")


def aborted_upload(rng: Random) -> Attack:
    """An upload that ends in the middle, with the connection."""
    request = post(sample())
    return Attack(request[: rng.randrange(1, len(request))], frozenset({0}), "abort")


def large_body(rng: Random) -> Attack:
    """A body of 100 MB, stated or in parts."""
    if rng.random() < 0.5:
        return Attack(post(b"", extra="").replace(b"Content-Length: 0", b"Content-Length: 100000000"), frozenset({413}))
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    return Attack(CHUNKED + chunk * (100_000_000 // 2**16), frozenset({413}))


KINDS: dict[str, tuple[Callable[[Random], Attack], int]] = {
    "cut images": (cut_image, 20),
    "changed images": (changed_image, 20),
    "bombs": (bomb, 10),
    "other content": (other_content, 12),
    "deep JSON": (deep_json, 6),
    "forms": (form, 8),
    "path-like names": (path_like_name, 6),
    "odd options": (odd_query, 10),
    "odd addresses": (odd_path, 10),
    "foreign hosts": (foreign_host, 8),
    "header floods": (header_flood, 8),
    "not HTTP": (not_http, 8),
    "slow senders": (slow_sender, 4),
    "aborted uploads": (aborted_upload, 8),
    "large bodies": (large_body, 1),
}
"""Name of a kind -> the function that makes a request, and its weight."""
