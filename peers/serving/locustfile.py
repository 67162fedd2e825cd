"""Clients of `sais serve` for locust; `peers.serving.clients` starts it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import gevent
from locust import FastHttpUser, constant, task

BODIES = itertools.cycle([Path(path).read_bytes() for path in os.environ["SAIS_LOAD_IMAGES"].split(os.pathsep)])

REFUSED_SECONDS = 0.1
"""Time in seconds after which a refused client tries again; Retry-After states 1 or more."""


class Client(FastHttpUser):
    """A client that sends the next image when it has an answer; entries are named by status."""

    wait_time = constant(0)

    @task
    def predict(self) -> None:
        """Send an image."""
        headers = {"Content-Type": "image/jpeg"}
        with self.client.post("/v1/predict", data=next(BODIES), headers=headers, catch_response=True) as response:
            response.request_meta["name"] = str(response.status_code)
            response.success()
        if response.status_code != 200:
            gevent.sleep(REFUSED_SECONDS)
