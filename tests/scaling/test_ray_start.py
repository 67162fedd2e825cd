"""Start of Ray: clusters that do not exist, and folders of killed processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sais.errors import ResourceError
from sais.scaling.ray_start import leftover_folders, running_ray


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_missing_cluster_is_reported_at_once(address: str) -> None:
    ray = pytest.importorskip("ray")
    assert not ray.is_initialized()
    with pytest.raises(ResourceError, match=f"^{address}: no cluster at this address"), running_ray(address, 1, 0):
        pass


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal 0")
def test_folders_of_ended_processes_are_left_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"ray-{ended.pid}-abc", f"ray-{os.getpid()}-abc", "ray-tool", f"ray-{ended.pid}"):
        (tmp_path / name).mkdir()
    assert leftover_folders(tmp_path) == [tmp_path / f"ray-{ended.pid}-abc"]
