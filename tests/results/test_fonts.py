"""Fonts: any script where a font is installed, the class number and one note where none is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import features

from sais.results import fonts

MISSING = "\U00013000"
"""A hieroglyph."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget found fonts and reported names before and after each test."""
    caches = (fonts._file_for, fonts._package_files, fonts._has_characters)
    monkeypatch.setattr(fonts, "_reported", False)
    monkeypatch.delenv(fonts.VARIABLE, raising=False)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_ask_fontconfig", lambda characters: None)
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", {})


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.parametrize("name", ["star", "naïve €", "Ωμέγα", "звезда", "قطة", "חתול"])
def test_font_for_finds_a_font_of_the_train_extra(name: str, no_system_fonts: None) -> None:
    if fonts._is_right_to_left(name) and not features.check("raqm"):
        pytest.skip("Pillow has no raqm")
    font = fonts.font_for(f"{name} 0.87", 14)
    assert font is not None
    assert font.getlength(name) > 10
    assert fonts.drawable_names((name,), [0, 0]) == [name, name]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("noto_cjk_sans_jp_regular", "猫"),
        ("noto_cjk_sans_jp_regular", "고양이"),
        ("fontpkg_noto_sans", "बिल्ली"),
        ("fontpkg_noto_sans_thai", "แมว"),
    ],
)
def test_font_for_finds_the_fonts_of_the_fonts_extra(package: str, name: str, no_system_fonts: None) -> None:
    if find_spec(package) is None:
        pytest.skip("the extra fonts is not installed")
    assert fonts.font_for(f"{name} 0.87", 14) is not None


def test_names_without_a_font_become_numbers_and_are_reported_once(no_system_fonts: None) -> None:
    with pytest.warns(UserWarning, match="'class 1' instead"):
        assert fonts.drawable_names(("star", MISSING), [1, 0, 1]) == ["class 1", "star", "class 1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.drawable_names((MISSING * 2,), [0]) == ["class 0"]


def test_font_for_uses_the_files_of_the_variable_first(
    no_system_fonts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fonts, "PACKAGE_FONTS", ())
    path = fonts.font_for("Aa", 14)
    assert path is not None
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        pytest.skip("matplotlib is not installed")
    serif = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSerif.ttf"
    names = [str(tmp_path / "missing.ttf"), str(tmp_path / "broken.ttf"), str(serif)]
    monkeypatch.setenv(fonts.VARIABLE, os.pathsep.join(names))
    fonts._file_for.cache_clear()
    found = fonts.font_for("Aa", 14)
    assert found is not None
    assert found.getname()[0] == "DejaVu Serif"


def test_right_to_left_names_need_raqm(no_system_fonts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts.features, "check", lambda name: False)
    assert fonts.font_for("قطة", 12) is None
    assert fonts.font_for("cat", 12) is not None


def test_ask_fontconfig_survives_a_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts.shutil, "which", lambda name: None)
    assert fonts._ask_fontconfig("a") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.drawable_names(("cat",), [0]) == ["cat"]
