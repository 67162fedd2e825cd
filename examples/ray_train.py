"""Train on a Ray cluster with `sais.train`, one process for each GPU; resumes after a machine is lost.

python examples/ray_train.py sais-lite my_data runs/lite                # two CPU processes on this machine
python examples/ray_train.py sais-r50-768 /shared/coco /shared/runs/coco --processes 8 --gpu --set batch_size=64 \
  --address auto
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

import sais


def train_on_worker(settings: dict[str, Any]) -> None:
    """Train as one of the processes, all of which have the same settings; only the first one writes."""
    out = Path(settings["out"])
    context = ray.train.get_context()
    result = sais.train(
        settings["recipe"],
        settings["data"],
        out,
        # After a failure, Ray starts all processes again. The second file is left if the first was damaged.
        resume=any((out / name).exists() for name in ("last.safetensors", "previous.safetensors")),
        verbose=context.get_world_rank() == 0,
        **settings["options"],
    )
    metrics = result.metrics or {}  # for the dashboard of Ray
    ray.train.report({"iterations": result.iterations, "box_AP": metrics.get("box", {}).get("AP")})


def train(
    recipe: str, data: str, out: str, processes: int = 2, gpu: bool = False, restarts: int = 3, **options: Any
) -> ray.train.Result:
    """Train in several processes.

    Args:
        recipe: name of a recipe, or a settings file.
        data: folder of a data set, at the same path on all machines.
        out: folder of the run, on a file system that all machines share.
        processes: number of processes; with GPUs one for each.
        gpu: whether each process has a GPU.
        restarts: number of times to resume from the last checkpoint after a process or machine was lost.
        options: settings of `sais.train`, such as `epochs=30`.
    """
    paths = {"data": str(Path(data).resolve()), "out": str(Path(out).resolve())}  # processes run in other folders
    recipe = str(Path(recipe).resolve()) if Path(recipe).is_file() else recipe
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"recipe": recipe, "options": options, **paths},
        # Weights are averaged on the GPUs, names and metrics are exchanged on the CPUs.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=gpu),
        run_config=RunConfig(storage_path=paths["out"] + "-ray", failure_config=FailureConfig(max_failures=restarts)),
    )
    return trainer.fit()


def main() -> None:
    """Train as the command line states."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("data")
    parser.add_argument("out", help="folder of the run, shared by all machines")
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument("--gpu", action="store_true", help="give each process a GPU")
    help_of_set = "settings of sais.train; paths in them are absolute"
    parser.add_argument("--set", nargs="*", default=[], type=_setting, metavar="NAME=VALUE", help=help_of_set)
    parser.add_argument("--address", help="address of a cluster, or auto; default: Ray is started on this machine")
    arguments = parser.parse_args()
    if arguments.address is None and "RAY_ADDRESS" not in os.environ:
        ray.init(include_dashboard=False)
    else:
        ray.init(arguments.address)
    result = train(
        arguments.recipe,
        arguments.data,
        arguments.out,
        arguments.processes,
        arguments.gpu,
        **dict(arguments.set),
    )
    if result.error is not None:
        raise SystemExit(f"{arguments.out}: {result.error}")
    print(f"the run is in {arguments.out}")


def _setting(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word}: no value. Give NAME=VALUE, such as epochs=30.")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text


if __name__ == "__main__":
    main()
