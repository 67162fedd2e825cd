"""Remarks on a data set as the commands print them: data options are named as options of the command line."""

from __future__ import annotations

import re
from dataclasses import fields

from sais.data.options import DataOptions


def name_data_options(text: str) -> str:
    """Replace the names of `DataOptions` in a remark by those of the command line."""
    names = "|".join(field.name for field in fields(DataOptions) if "_" in field.name)  # not the word "format"
    return re.sub(rf"(?:the data option )?\b({names})\b", lambda match: "--" + match[1].replace("_", "-"), text)
