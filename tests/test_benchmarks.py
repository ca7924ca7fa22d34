"""The benchmarks, of which the tests run one: that what they import is there, and that no figure is lost."""

import argparse
import ast
import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import psutil
import pytest

from benchmarks import kernels, roofline, run, study
from ser_jax import machine

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
RECORD = {"device": "A Device", "platform": "gpu", "what": "help", "seconds": 1.0}


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_what_a_benchmark_takes_of_the_package_is_there(file):
    """Imported at its top or where it is needed, called by the name of its module, or replaced."""
    nodes, modules = list(ast.walk(ast.parse(file.read_text()))), {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ser_jax"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                found = getattr(module, name, None) or importlib.import_module(f"{node.module}.{name}")
                if isinstance(found, ModuleType):
                    modules[name] = found
    variables = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    variables |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    modules = {name: module for name, module in modules.items() if name not in variables}
    taken = [(node.value, node.attr) for node in nodes if isinstance(node, ast.Attribute)]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    taken += [(call.args[0], call.args[1].value) for call in calls if ast.unparse(call.func) == "mock.patch.object"]
    for module, name in taken:
        module = ast.unparse(module)
        assert module not in modules or hasattr(modules[module], name), f"{module}.{name}"


def kept(folder):
    return json.loads((folder / "a-device.json").read_text())["benchmarks"]["startup"]


def test_figures_are_kept_as_they_come_and_what_is_stopped_leaves_no_process(tmp_path):
    benchmark = f"import json, os, sys, time; print(json.dumps({RECORD} | {{'process': os.getpid()}}), file=sys.stderr)"
    benchmark += "; sys.stderr.flush(); time.sleep(100)"
    (tmp_path / "stopped.py").write_text(
        "from benchmarks import run\n"
        "whole = run.run\n"
        f"run.run = lambda arguments, *others: whole(['-c', {benchmark!r}], *others)\n"
        "run.SETS['short'] = {'startup': ''}\n"
        "run.main()\n"
    )
    command = [sys.executable, tmp_path / "stopped.py", "--results", tmp_path, "--page", tmp_path / "page.md"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and not (tmp_path / "a-device.json").exists():
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    (found,) = kept(tmp_path)["records"]
    assert kept(tmp_path)["error"] == "interrupted"
    assert found == RECORD | {"process": found["process"]}
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(found["process"]).status() == psutil.STATUS_ZOMBIE


def test_whole_figures_stay_where_a_later_run_fails_or_git_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    run.keep(tmp_path, "startup", "", [RECORD], 1.0, "ended after 1 s: no time left")
    run.keep(tmp_path, "startup", "", [RECORD, RECORD], 2.0, "")
    assert kept(tmp_path)["commit"] == ""
    for records in ([], [RECORD]):
        run.keep(tmp_path, "startup", "", records, 1.0, "ended after 1 s: no time left")
        assert len(kept(tmp_path)["records"]) == 2
    run.keep(tmp_path, "startup", "--turns 1", [RECORD], 1.0, "")
    assert (kept(tmp_path)["options"], len(kept(tmp_path)["records"])) == ("--turns 1", 1)


def test_what_the_project_needs_is_asked_for_before_a_gpu_is_used(tmp_path):
    """Of all that requirements.txt names."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata\n"
        "whole = importlib.metadata.distributions\n"
        "importlib.metadata.distributions = lambda: (one for one in whole() if one.name not in ('cattrs', 'psutil'))\n"
    )
    command = ["bash", "benchmarks/gpu.sh", "--rehearse", "--python", sys.executable, "--results", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2, found.stderr
    assert "not installed, needed: cattrs\n" in found.stdout
    assert "not installed, for the tests: psutil\n" in found.stdout


CUT = f"ended after 9 s: {run.NO_TIME}"


@pytest.mark.parametrize(
    ("rows", "error", "status"),
    [
        (8, "", None),
        (8, CUT, run.TIME_UP),
        (7, CUT, "error: steps failed"),
        (8, "exit status 1: it broke", "error: steps failed"),
    ],
)
def test_that_time_is_up_after_the_rows_that_decide_is_no_failure(tmp_path, monkeypatch, rows, error, status):
    monkeypatch.setattr(run, "run", lambda *_: (rows * [RECORD], 9.0, error))
    options = ["--set", "gpu", "--only", "steps", "--no_page", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run", *options])
    with contextlib.nullcontext() if status is None else pytest.raises(SystemExit) as stopped:
        run.main()
    assert status is None or stopped.value.code == status
    assert json.loads((tmp_path / "a-device.json").read_text())["benchmarks"]["steps"]["error"] == error


@pytest.mark.parametrize(
    ("contestants", "enough"),
    [
        ([study.COLD, study.MODES["eager"], study.MODES["graph"]], True),
        ([study.COLD, study.MODES["eager"], "ser_jax, all at once, warm"], False),
    ],
)
def test_a_study_decides_with_its_peer_as_a_graph_whatever_else_was_measured(contestants, enough):
    assert run.decides("study", [{"contestant": contestant} for contestant in contestants]) is enough
    assert run.decides("models", []) is False  # time was up before its first row


def test_pytorch_is_measured_before_our_warm_study_and_each_row_is_told_at_once(monkeypatch):
    told = []

    def seconds(args, modes, number):
        for mode in modes:
            yield mode, 1.0
            assert told[-1].startswith(study.MODES[mode])

    def ours(name, args, folder):
        told.append(name)
        return {"models": 2, "run_steps": 20, "seconds": 10.0}

    monkeypatch.setattr(study, "ours", ours)
    monkeypatch.setattr(study, "torch_seconds", seconds)
    monkeypatch.setattr(study, "emit", lambda _, contestant, **figures: told.append(contestant))
    monkeypatch.setattr(sys, "argv", ["study", "--torch_device", "cuda"])
    study.main()
    first, *peers, last, beside = told
    assert (first[-4:], last[-4:], beside) == ("cold", "warm", "PyTorch, eager, 8 processes")
    assert peers == ["PyTorch, eager", "PyTorch, a CUDA graph", "PyTorch, a CUDA graph, bfloat16"]


def test_a_step_of_pytorch_is_timed_in_a_process_for_all_modes_and_what_fails_is_told():
    args = argparse.Namespace(small=True, torch_device="cpu", torch_seconds=0.0)
    pytest.importorskip("torch")
    (_, failed), *found = study.torch_seconds(args, ["unknown", "eager", "eager"], 1)
    assert "invalid choice: 'unknown'" in failed
    assert [mode for mode, _ in found] == ["eager", "eager"] and all(0 < seconds < 10 for _, seconds in found)


def test_a_study_without_its_peer_fails_after_all_else_was_measured(monkeypatch, capsys):
    monkeypatch.setattr(study, "ours", lambda name, *_: print(name) or {"models": 2, "run_steps": 20, "seconds": 10.0})
    monkeypatch.setattr(study, "torch_seconds", lambda _, modes, number: [(mode, "no torch") for mode in modes])
    monkeypatch.setattr(sys, "argv", ["study", "--torch_processes", "2"])
    with pytest.raises(SystemExit, match=r"^error: left out: PyTorch, eager; PyTorch, eager, 2 processes$"):
        study.main()
    assert "warm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statuses", "options", "status", "said"),
    [
        ({}, [], 0, "all was measured"),
        ({"steps-more": 3}, [], 3, "what decides was measured; time was up for: steps-more"),
        ({"study": 1, "steps-more": 3}, [], 1, "failed: study; time was up for: steps-more"),
        ({"pytest": 124}, ["--only", "tests", "--only", "extraction"], 1, "failed: tests"),
        ({"pytest": 1}, ["--only", "extraction"], 0, "all was measured"),
        ({}, ["--limit", "9"], 1, "failed: study steps tests; time was up for: steps-more extraction"),
        ({}, ["--only", "step"], 2, ""),
        (
            {"--limit 30": 3},
            ["--more", "--limit", "30"],
            3,
            "time was up for --more",
        ),
        ({"--limit": 1}, ["--more"], 0, "all was measured"),
    ],
)
def test_the_script_for_a_gpu_says_how_it_ended(tmp_path, statuses, options, status, said):
    (tmp_path / "packed" / "emodb").mkdir(parents=True)
    (tmp_path / "packed" / "emodb" / "corpus.json").touch()
    cases = "".join(f'*"{name} "*) exit {code} ;; ' for name, code in statuses.items())
    (tmp_path / "python").write_text(f'#!/bin/sh\ncase "$* " in {cases}esac\n')
    (tmp_path / "python").chmod(0o755)
    command = ["benchmarks/gpu.sh", "--python", tmp_path / "python", "--data_dir", tmp_path, "--results", tmp_path]
    found = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (found.returncode, said) == (status, found.stdout.splitlines()[-1].partition(" (after")[0] if said else "")


def test_in_bfloat16_a_step_has_half_the_bytes_of_results_to_move_and_all_of_its_state():
    learner = roofline.make("rnn", {"hidden": 4, "depth": 1}, 8, 16)
    size = argparse.Namespace(batch=2, frames=8, features=16)
    products, moved = roofline.by_hand(learner, size)
    fewer_products, fewer = roofline.by_hand(dataclasses.replace(learner, precision="bfloat16"), size)
    state = 4 * roofline.STATE_TRAFFIC * learner.num_parameters
    assert fewer_products == products
    assert 0 < 2 * (fewer - state) == moved - state


PROGRAM = """HloModule jit_steps

%fused (p.0: f32[2]) -> f32[2] {
  %p.0 = f32[2]{0} parameter(0)
  %slice.1 = f32[1]{0} slice(%p.0), slice={[0:1]}
  ROOT %pad.1 = f32[2]{0} pad(%slice.1, %slice.1), padding=0_1
}

%frames (p.1: (f32[2], s32[])) -> (f32[2], s32[]) {
  %p.1 = (f32[2], s32[]) parameter(0)
  %x.1 = f32[2]{0} get-tuple-element(%p.1), index=0
  %fusion.1 = f32[2]{0} fusion(%x.1), kind=kLoop, calls=%fused
  %product.1 = (f32[2]{0}, s8[8]{0}) custom-call(%x.1), custom_call_target="__cublas$lt$matmul"
  ROOT %t.1 = (f32[2], s32[]) tuple(%fusion.1)
}

%steps (p.2: (f32[2], s32[])) -> (f32[2], s32[]) {
  %p.2 = (f32[2], s32[]) parameter(0)
  %copy.1 = f32[2]{0} copy(%p.2)
  %while.1 = (f32[2], s32[]) while(%p.2), condition=%c, body=%frames, backend_config={"known_trip_count":{"n":"101"}}
  %call.1 = f32[2]{0} call(%copy.1), to_apply=%called
  %start.1 = ((f32[2]), f32[2]) fusion-start(%call.1), kind=kLoop, calls=%fused
  %done.1 = f32[2]{0} fusion-done(%start.1), calls=%fused
  ROOT %t.2 = (f32[2], s32[]) tuple(%done.1)
}

%called (p.3: f32[2]) -> f32[2] {
  %p.3 = f32[2]{0} parameter(0)
  ROOT %sort.1 = f32[2]{0} sort(%p.3), dimensions={0}
}

ENTRY %main (p.4: f32[2]) -> f32[2] {
  %p.4 = f32[2]{0} parameter(0)
  %while.2 = (f32[2], s32[]) while(%p.4), condition=%c, body=%steps
  ROOT %x.4 = f32[2]{0} get-tuple-element(%while.2), index=0
}
"""


def test_kernels_of_a_step_are_counted_as_often_as_loops_of_known_length_go_round_and_so_are_their_bytes():
    fusion, product = (101, 101 * (4 + 8)), (101, 101 * (8 + 16))  # the fusion cuts one of two numbers out
    copy, sort, begun = (1, 12 + 8), (1, 8 + 8), (1, 4 + 16)
    assert sorted(kernels.launches(PROGRAM)) == sorted([fusion, product, copy, sort, begun])


def test_a_program_that_is_compiled_for_an_absent_gpu_may_use_what_that_has(monkeypatch, capsys):
    """The table of `benchmarks.kernels`, with a compiler that has the program ready."""

    class Compiler:
        def trace(self, *_):
            assert jax.default_backend() == "gpu" and machine.capability(jax.local_devices()[0]) == 9
            return self

        def lower(self):
            return self

        def compile(self, compiler_options):
            return SimpleNamespace(
                as_text=lambda: PROGRAM, memory_analysis=lambda: SimpleNamespace(temp_size_in_bytes=0)
            )

    monkeypatch.setattr(kernels, "absent_gpu", lambda: jax.devices()[:1])
    monkeypatch.setattr(kernels, "steps_of", lambda *_: (Compiler(), ()))
    monkeypatch.setattr(sys, "argv", ["kernels", "--model", "transformer", "--runs", "2"])
    kernels.main()
    printed = capsys.readouterr()
    counted = sum(count for count, _ in kernels.launches(PROGRAM))
    assert printed.out.splitlines()[-1].split()[:2] == ["transformer", str(counted)]
    assert json.loads(printed.err)["kernels"] == counted


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="a compiler for GPUs is installed")
def test_kernels_are_counted_with_a_compiler_for_gpus_alone():
    command = [sys.executable, "-m", "benchmarks.kernels", "--model", "rnn"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "error: jax_plugins.xla_cuda13: not installed; see --help\n")


def test_the_streaming_feed_is_measured_beside_a_training():
    pytest.importorskip("tensorflow")
    small = ["--model", "linear", "--utterances", "64", "--window", "16", "--steps", "1", "--turns", "1"]
    command = [sys.executable, "-m", "benchmarks.input_bound", *small]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "share of the wall time" in run.stdout
