"""Architectures by name, and the errors for objects that are none."""

from __future__ import annotations

import pytest
import torch

from sais.errors import ConfigError
from sais.modeling.architecture import ARCHITECTURES, Architecture, find_architecture
from sais.modeling.sais_architecture import SAIS_ARCHITECTURE


def test_find_architecture_imports_rows_of_the_table() -> None:
    assert find_architecture("sais") is SAIS_ARCHITECTURE
    assert find_architecture("sais.modeling.sais_architecture:SAIS_ARCHITECTURE") is SAIS_ARCHITECTURE


def test_find_architecture_rejects_unusable_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'sais'"):
        find_architecture("saiss")
    with pytest.raises(ConfigError, match="'math:pi': float, not an Architecture"):
        find_architecture("math:pi")
    mute = Architecture("mute", lambda experiment, classes: torch.nn.Linear(1, 1), lambda experiment: None, None)
    monkeypatch.setitem(ARCHITECTURES, "mute", mute)
    with pytest.raises(ConfigError, match="neither postprocess nor detect"):
        find_architecture("mute")
