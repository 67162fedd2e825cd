"""Trust: code of your own that a file names is imported only if you named it yourself, or trust the file.

A checkpoint stores the names ``module:attribute`` of the head, the losses and other parts that it was trained with, and
a log that of its data set. What you write in an option, a settings file or Python is your own word. A checkpoint or a
run folder may be somebody else's, and `shutil:rmtree` is a valid name. Names of built-in parts are always resolved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from sais.config import Experiment
from sais.errors import ConfigError
from sais.resolve import NAMED_MODULES

TRUST_VARIABLE = "SAIS_TRUST"
"""Environment variable with the modules and packages, separated by commas, that files may name."""
NETWORK_CODE = ("model.architecture", "model.head")
"""Settings whose code the network of a stored model consists of."""
BUILT_IN = ("sais.paper.padding_bug:PADDING_BUG_ARCHITECTURE",)
"""Names of parts of sais that have no short name."""
OWN_CODE = (
    *NETWORK_CODE,
    *("model.quality", "criterion.assigner", "criterion.classification_loss", "criterion.box_loss"),
    *("criterion.extra_losses", "augment.extra", "optim.name", "schedule.kind", "run.loggers"),
)
"""Settings that accept ``module:attribute``."""


def own_code(experiment: Experiment, settings: tuple[str, ...] = OWN_CODE) -> dict[str, str]:
    """Return the names ``module:attribute`` in an experiment, each with the setting that has it.

    Args:
        experiment: settings.
        settings: names of the settings to consider, of `OWN_CODE`.
    """
    names = {}
    for setting in settings:
        group, _, field = setting.partition(".")
        value = getattr(getattr(experiment, group), field)
        for name in value if isinstance(value, tuple) else (value,):
            if ":" in name:
                names[name] = setting
    return names


def is_trusted(name: str) -> bool:
    """Return whether ``module:attribute`` is built in, or its module was named by the user or in `TRUST_VARIABLE`."""
    if name in BUILT_IN:
        return True
    module = name.partition(":")[0]
    packages = os.environ.get(TRUST_VARIABLE, "").replace(",", " ").split()
    return module in NAMED_MODULES or any(module == package or module.startswith(f"{package}.") for package in packages)


def check_trusted(names: Mapping[str, str], where: str, trust: bool | None = False) -> None:
    """Check that nothing is imported only because a file names it.

    Args:
        names: ``module:attribute`` -> the entry of the file that names it, as `own_code` returns them.
        where: the file.
        trust: whether the user trusts the file; None where there is no such argument.

    Raises:
        ConfigError: a name is not trusted.
    """
    if trust:
        return
    for name, entry in names.items():
        if not is_trusted(name):
            module = name.partition(":")[0][:200]
            fix = f"set the environment variable {TRUST_VARIABLE}={module}"
            fix = (
                f"If you trust the module, {fix}"
                if trust is None
                else f"Set trust=True if you trust the file, or {fix}"
            )
            raise ConfigError(
                f"{where}: {entry} is {name[:200]!r}, code outside of sais that would be imported and run. {fix}."
            )
