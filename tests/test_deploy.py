"""The deployment files: valid, with options that `sais serve` has, without privileges."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sais.commands.options import check_command_line
from sais.commands.serve import ServeArguments

yaml = pytest.importorskip("yaml")


def check_options(words: list[str]) -> None:
    """Raise ConfigError unless `sais serve` has these options."""
    check_command_line(ServeArguments, words, "sais serve")


def dockerfile(root: Path) -> str:
    return (root / "deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def test_dockerfile_runs_serve_without_privileges(root: Path) -> None:
    text = dockerfile(root)
    stages = text.split("\nFROM ")[1:]
    entry, arguments = (re.search(rf"^{name} (\[.*\])$", stages[-1], re.MULTILINE) for name in ("ENTRYPOINT", "CMD"))
    assert entry is not None
    assert arguments is not None
    words = [*yaml.safe_load(entry[1]), *yaml.safe_load(arguments[1])]
    assert words[:2] == ["sais", "serve"]
    check_options(words[2:])
    user = re.search(r"^USER (\d+):(\d+)$", stages[-1], re.MULTILINE)
    assert user is not None
    assert "0" not in user.groups()
    assert "HEALTHCHECK" in stages[-1]
    assert "/readyz" in stages[-1]
    assert "torch" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    assert not re.findall(r"FROM \S+:latest|FROM [^:\s]+\s", text)  # a base image has a version


def test_compose_starts_the_server_and_prometheus(root: Path) -> None:
    content = yaml.safe_load((root / "deploy/compose.yaml").read_text(encoding="utf-8"))
    service = content["services"]["sais"]
    check_options(service["command"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (root / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    targets = yaml.safe_load(content["configs"]["prometheus"]["content"])["scrape_configs"][0]["static_configs"]
    assert targets == [{"targets": ["sais:8000"]}]
    assert all(port.startswith("127.0.0.1:") for entry in content["services"].values() for port in entry["ports"])


def test_kubernetes_manifest_has_probes_limits_and_no_privileges(root: Path) -> None:
    documents = list(yaml.safe_load_all((root / "deploy/kubernetes.yaml").read_text(encoding="utf-8")))
    kinds: dict[str, Any] = {document["kind"]: document["spec"] for document in documents}
    pod = kinds["Deployment"]["template"]
    [container] = pod["spec"]["containers"]
    check_options(container["args"])
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["resources"]["limits"]["memory"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert kinds["Service"]["selector"] == pod["metadata"]["labels"] == kinds["Deployment"]["selector"]["matchLabels"]
    options = check_command_line(ServeArguments, container["args"], "sais serve")
    assert "serving.timeout" not in options  # the grace period fits the default of 30 s, twice
    assert pod["spec"]["terminationGracePeriodSeconds"] > 60


def test_systemd_unit_is_valid(root: Path, tmp_path: Path) -> None:
    path = root / "deploy/sais.service"
    text = path.read_text(encoding="utf-8")
    command = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert command is not None
    words = shlex.split(command[1])
    assert words[1] == "serve"
    check_options(words[2:])
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "sais.service"
    unit.write_text(text.replace("/opt/sais/bin/sais", "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    problems = [line for line in done.stderr.splitlines() if "sais.service" in line]
    assert not problems
