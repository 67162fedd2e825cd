"""Every kind of finding has an explanation of its own, in the form of the house."""

from __future__ import annotations

import pytest

from sais.data.doctor import kinds, remedies
from sais.data.doctor.remedies import explain

KINDS = [value for name, value in vars(kinds).items() if name.isupper() and isinstance(value, str)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_explained(kind: str) -> None:
    assert explain(kind) in remedies._EXPLANATIONS.values()
    assert explain(kind).reason.endswith(".")
    assert explain(kind).remedy.endswith(".")


def test_explanations_name_no_options_of_a_command() -> None:
    for explanation in remedies._EXPLANATIONS.values():
        assert "--" not in explanation.reason + explanation.remedy


def test_kinds_without_an_explanation_have_that_of_their_severity() -> None:
    texts = {explain("a new kind", severity).reason for severity in ("ERROR", "WARNING", "NOTE")}
    assert len(texts) == 3
