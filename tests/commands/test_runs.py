"""The records of runs (state, scores, incomplete and foreign folders), and `sais runs`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sais.cli import main
from sais.commands.runs import LIST_COLUMNS, _fitting_columns, sparkline
from sais.config import Experiment, to_dict
from sais.engine.lock import lock_run
from sais.errors import SaisError
from sais.reports.log_entries import read_log
from sais.reports.run_record import find_runs, read_run

Entry = dict[str, Any]


def metrics(mask: float | None, box: float) -> Entry:
    def scores(value: float) -> Entry:
        return {"AP": value, "AP50": value + 0.2, "AP75": None, "per_class": {"cat": value}}

    return {"mask": None if mask is None else scores(mask), "box": scores(box), "images": 4, "objects": 9}


def start(time: float, iteration: int = 0, **settings: Any) -> Entry:
    experiment = to_dict(Experiment(name="sais-lite"))
    experiment["schedule"]["epochs"] = 3
    experiment["optim"].update(settings)
    entry = {"kind": "start", "time": time, "iteration": iteration, "experiment": experiment, "data": "zoo", "total": 6}
    return entry | {"paths": {"data": "/data/zoo"}, "machine": {"device": "cpu"}, "notes": []}


def iteration(number: int, time: float) -> Entry:
    entry = {"kind": "iteration", "time": time, "iteration": number, "epoch": (number - 1) // 2}
    return entry | {"lr": 0.1, "images_per_second": 4.0 + number, "total": 2.0}


def write(folder: Path, *entries: Entry) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def finished(folder: Path, time: float = 1000.0, masks: bool = True, **settings: Any) -> Path:
    """Write a run of three epochs, stopped for an hour after two; the second epoch is the best."""
    entries = [start(time, **settings)]
    entries += [iteration(number, time + 10 * number) for number in range(1, 5)]
    entries += [{"kind": "stop", "time": time + 45, "iteration": 4, "reason": "interrupted"}]
    entries += [start(time + 3645, 4, **settings)]
    entries += [iteration(number, time + 3600 + 10 * number) for number in (5, 6)]
    for epoch, score in enumerate((0.1, 0.3, 0.25)):
        entry = {"kind": "evaluation", "time": time + 3660, "iteration": 2 * epoch + 2, "epoch": epoch}
        entries.append(entry | {"metrics": metrics(score if masks else None, score / 2)})
    entries.append(
        {"kind": "end", "time": time + 3665, "iteration": 6, "seconds": 50.0, "unreadable_images": ["a.jpg: broken"]}
    )
    return write(folder, *entries)


def test_read_run_of_a_finished_run(tmp_path: Path) -> None:
    record = read_run(finished(tmp_path / "run"))
    assert record.state == "finished"
    assert record.describe_state() == "finished, 3 epochs"
    assert replace(record, experiment={"schedule": {"epochs": 9}}).describe_state() == "finished early, 3 of 9 epochs"
    assert (record.name, record.recipe, record.data, record.epochs) == ("run", "sais-lite", "zoo", 3)
    assert record.best() == (0.3, 2)
    assert record.score("mask") == 0.25
    assert record.score("box", "AP50") == pytest.approx(0.325)
    assert record.score("mask", "AP75") is None
    assert record.seconds == 45 + 20  # the hour between does not count
    assert record.images_per_second == 7.5
    assert record.unreadable_images == 1
    assert read_run(finished(tmp_path / "boxes", masks=False)).best() == (0.15, 2)


def test_read_run_states(tmp_path: Path) -> None:
    stopped = write(tmp_path / "a", start(10), iteration(1, 11), iteration(2, 12), iteration(3, 13))
    assert read_run(stopped).state == "stopped"
    assert read_run(stopped).describe_state() == "stopped in epoch 2 of 3"
    lock = lock_run(stopped)
    assert read_run(stopped).state == "running"
    assert read_run(stopped).describe_state() == "running in epoch 2 of 3"
    lock.release()
    assert read_run(stopped).state == "stopped"
    failed = write(tmp_path / "b", start(10), {"kind": "stop", "time": 11, "iteration": 0, "reason": "SaisError: no"})
    assert (read_run(failed).describe_state(), read_run(failed).reason) == ("stopped at the start", "SaisError: no")
    steps = write(tmp_path / "c", start(10), iteration(1, 11), {"kind": "end", "time": 12, "iteration": 1})
    assert (read_run(steps).state, read_run(steps).reason) == ("stopped", "limit on the number of iterations")
    (steps / "model.safetensors").touch()
    assert read_run(steps).state == "finished"


def test_read_run_without_locks_uses_the_age_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import sais.reports.run_record as module

    monkeypatch.setattr(module, "is_locked", lambda path: None)
    now = time.time()
    assert read_run(write(tmp_path / "a", start(now - 60), iteration(1, now - 30))).state == "running"
    assert read_run(write(tmp_path / "b", start(now - 6000), iteration(1, now - 3000))).state == "stopped"
    stop = {"kind": "stop", "time": now, "iteration": 1, "reason": "interrupted"}
    assert read_run(write(tmp_path / "c", start(now - 60), iteration(1, now - 30), stop)).state == "stopped"
    assert read_run(finished(tmp_path / "d", now - 3670)).state == "finished"


def test_read_run_ignores_malformed_entries(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    whole = (folder / "log.jsonl").read_bytes()
    odd = b'\xff\xfe\n[1, 2]\n"kind"\n{"kind": "iteration"}\n{"kind": "evaluation", "epoch": 1, "metrics": null}\n'
    odd += b'{"kind": "evaluation", "epoch": 2, "metrics": {"mask": {"AP": "high"}, "box": 3}}\n{"kind": "itera'
    (folder / "log.jsonl").write_bytes(whole + odd)
    record = read_run(folder)
    assert record.best() == (0.3, 2)
    assert len(record.iterations) == 6
    assert record.score("mask") is None
    assert read_log(tmp_path / "nowhere") == []
    for name, content in (("empty", ""), ("other", '{"kind": "start"}\n{"loss": 1}\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(content)
        with pytest.raises(SaisError, match="no start entry"):
            read_run(tmp_path / name)
    with pytest.raises(SaisError, match="contains no log.jsonl"):
        read_run(tmp_path)


def test_read_run_takes_scores_from_result_json(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", start(10), iteration(6, 11), {"kind": "end", "time": 12, "iteration": 6})
    (folder / "result.json").write_text(json.dumps({"metrics": metrics(0.4, 0.5)}))
    assert read_run(folder).best() == (0.4, 3)
    (folder / "result.json").write_text('{"metrics"')
    assert read_run(folder).best() is None


def test_runs_lists_newest_first_and_unreadable_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(Path("runs/old"), 1000)
    finished(Path("runs/deep/below/new"), 2000)
    write(Path("runs/stopped"), start(1500), iteration(1, 1501))
    write(Path("runs/old/tensorboard"), {"kind": "no run of ours"})
    Path("runs/half").mkdir()
    Path("runs/half/experiment.json").write_text("{}")
    Path("runs/results").mkdir()
    records, errors = find_runs([Path("runs"), Path("runs/deep")])
    assert [record.name for record in records] == ["new", "stopped", "old"]
    assert errors == ["runs/half: contains no log.jsonl. Give the folder of a run of `sais train`."]
    assert main(["runs"]) == 0
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert lines[1][:9] == ["runs/deep/below/new", "sais-lite", "zoo", "finished", "0.300", "2", "0.250", "0.125", "65"]
    assert lines[2][:7] == ["runs/stopped", "sais-lite", "zoo", "stopped", "1/3", "-", "-"]
    assert "1 unreadable folder:\n  runs/half: contains no log.jsonl" in output
    assert main(["runs", "--json", "runs/deep"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)["runs"]
    assert (facts["state"], facts["best_AP"], facts["best_epoch"], facts["seconds"]) == ("finished", 0.3, 2, 65.0)
    assert facts["metrics"]["mask"]["AP"] == 0.25
    Path("none").mkdir()
    assert main(["runs", "none"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_runs_compare_prints_differing_settings_scores_and_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(Path("a/one"), lr=0.01)
    finished(Path("b/two"), lr=0.02, grad_clip_norm=35.0, masks=False)
    assert main(["runs", "compare", "a/one", "b/two"]) == 0
    output = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}
    assert rows["optim.lr"] == ["0.01", "0.02"]
    assert rows["optim.grad_clip_norm"] == ["-", "35"]
    assert "optim.batch_size" not in rows
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "mask AP 0.250 -" in lines
    assert "box AP50 0.325 0.325" in lines
    assert "best AP 0.300 after epoch 2 0.150 after epoch 2" in lines
    assert "one ▃█▇" in lines
    assert "two ▂▅▄" in lines
    assert main(["runs", "compare", "a/one", "b/two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["optim.lr"] == [0.01, 0.02]
    assert main(["runs", "compare", "a/one"]) == 2
    assert "fewer than two runs" in capsys.readouterr().err
    assert main(["runs", "compare", "a/one", "a"]) == 2
    assert "a: contains no log.jsonl" in capsys.readouterr().err
    assert main(["runs", "compare", "a/one", "./a/one"]) == 0
    assert "no setting differs" in capsys.readouterr().out


def test_sparkline_scales_and_thins_values() -> None:
    assert sparkline([0.0, 0.5, 1.0], 1.0) == "▁▅█"
    assert sparkline([0.0, 0.0], 0.0) == "▁▁"
    long = sparkline([i / 999 for i in range(1000)], 1.0)
    assert len(long) == 40
    assert (long[0], long[-1]) == ("▁", "█")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_list_leaves_out_columns_that_do_not_fit_the_terminal(width: int) -> None:
    row = [
        "runs/first",
        "sais-lite",
        "shapes",
        "finished",
        "0.512",
        "30",
        "0.508",
        "0.551",
        "12 min",
        "27.3",
        "2026-11-28",
    ]
    shown = [LIST_COLUMNS[number] for number in _fitting_columns(LIST_COLUMNS, [row], width)]
    assert {"run", "recipe", "data", "state", "best AP", "mask AP"} <= set(shown)
    cells = [max(name, cell, key=len) for name, cell in zip(LIST_COLUMNS, row, strict=True) if name in shown]
    assert sum(len(cell) + 2 for cell in cells) - 2 <= width
    assert ("images/s" in shown) == (width == 120)
