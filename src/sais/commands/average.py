"""`sais average MODEL MODEL ... --out FILE`: average the weights of several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sais.commands.arguments import parse, prepare_torch
from sais.commands.input_files import annotation_files, model_files
from sais.commands.open_predictor import check_model
from sais.errors import InputError
from sais.text import print_text


@dataclass(frozen=True)
class AverageArguments:
    """Average the weights of models with the same architecture, input and classes: one model at the cost of one.

    It can help where the models were fine-tuned from the same one, and destroys models that were trained from different
    random weights. Running statistics of batch normalization are averaged as well. Evaluate the result: sais eval.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL")]
    """Two or more model files or folders of training runs."""
    out: Path
    """Model file to write, .safetensors."""
    data: Path | None = None
    """Data set by which the models are chosen: each is added, the best first, if it does not lower AP on --split."""
    split: str | None = None
    """Split of --data. It is then used for selection: measure the final AP on another one."""
    overwrite: bool = False
    """Replace an existing file of --out, except a model that is averaged."""
    trust: bool = False
    """Import and run code outside of sais that the models name, for --data."""


def run(argv: Sequence[str]) -> int:
    """Run `sais average`."""
    arguments = parse(AverageArguments, argv, "sais average MODEL MODEL ...")
    paths = [Path(model) for model in arguments.models]
    if (arguments.data is None) != (arguments.split is None):
        raise InputError("sais average: one of --data and --split is missing. Name the data set and its split.")
    for path in paths:
        check_model(path)
    from sais.io.outputs import check_outputs

    inputs = [file for path in paths for file in model_files(path)]
    check_outputs([arguments.out], [*inputs, *annotation_files(arguments.data)], arguments.overwrite)
    prepare_torch("average")
    from sais.checkpoint import find_checkpoint, load_checkpoint
    from sais.data.formats import read_dataset
    from sais.data.paths import locate
    from sais.sharing.averaging import RELATED, average_models

    split = None
    if arguments.data is not None and arguments.split is not None and paths:
        names = load_checkpoint(find_checkpoint(paths[0])).class_names
        split = read_dataset(locate(arguments.data), arguments.split, names)
    result = average_models(paths, arguments.out, split, print_text, arguments.trust)
    if result.relatedness < RELATED:
        print_text(
            f"note: the models are hardly related ({result.relatedness:.2f}; 1 is equal): they were probably trained "
            "from different random weights, and their average may detect nothing"
        )
    print_text(f"averaged {len(result.used)} of {len(paths)} models: {', '.join(map(str, result.used))}")
    if split is None:
        print_text("the model has no metrics and thresholds of its own; store them: sais eval", end=" ")
        print_text(f"{arguments.out} --data DIR --save-thresholds")
    else:
        print_text(f"the split {arguments.split} was used for selection: measure the final AP on another one")
    print_text(f"wrote {arguments.out}")
    return 0
