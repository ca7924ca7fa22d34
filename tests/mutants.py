"""A mutation test: do the tests notice when the code tells a small lie?

    make mutants                                            # 100 lies, seed 0; takes most of an hour on two cores
    python -m tests.mutants --sample 20 --only statistics   # some of one room

cosmic-ray changes one operator, number, comparison, condition or argument of the code in a copy of the project. The
tests of the file are then run in that copy and, where they pass, those of the rooms that use it; without the lie all of
them have to pass. A lie that no test notices is printed with its place. What changes nothing that anyone could see is
not told, and printed with the reason: single changes stand in `ACCEPTED`, kinds of them in `KINDS`. Exit status 1 where
fewer than `--least` percent are noticed.
"""

import argparse
import ast
import concurrent.futures
import dataclasses
import functools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
COPIED = ("ser_jax", "tests", "configs", "launch.py", "pyproject.toml")
SECONDS = 400  # at least, and three times what they take without: a lie that makes the tests hang is noticed too

# Which tests cover a file: those of its own name and room, and what is named here.
COVERING = {
    "ser_jax/corpora/fold_lists.py": ("corpora/test_protocols.py",),
    "ser_jax/training/objectives.py": ("training/test_dimensions.py",),
    "ser_jax/training/step.py": (
        "training/test_step.py",
        "training/test_objectives.py",
        "training/test_dimensions.py",
        "training/test_population.py",
        "training/test_targets.py",
        "training/test_teacher.py",
    ),
    "ser_jax/training/state.py": (
        "training/test_step.py",
        "training/test_optimizers.py",
        "training/test_selection.py",
        "training/test_population.py",
    ),
    "ser_jax/training/loop.py": (
        "training/test_loop.py",
        "training/test_together.py",
        "training/test_population.py",
        "studies/test_run.py",
    ),
}

# Which tests come after them, by room.
WIDER = {
    "ser_jax/corpora": ("corpora/test_protocols.py", "corpora/test_audit.py"),
    "ser_jax/feeds": ("feeds", "training/test_feeds.py", "training/test_population.py"),
    "ser_jax/frontend": ("frontend", "training/test_step.py", "training/test_population.py", "test_plugins.py"),
    "ser_jax/models": ("models/test_normalisation.py", "models/test_contract.py"),
    "ser_jax/statistics": ("statistics", "report/test_summarise.py"),
    "ser_jax/training": (
        "training/test_population.py",
        "training/test_loop.py",
        "training/test_shared_batches.py",
        "inference",
        "test_plugins.py",
    ),
}

# "file: changed line": why no test needs to notice it.
ACCEPTED = {
    "ser_jax/training/objectives.py: "
    "frame_weight = frame_weight / jnp.where(sum_of_weights > 0, sum_of_weights, 2.0)": "0 divided by 2 is 0 too",
    "ser_jax/frontend/summaries.py: "
    "count = jnp.maximum(num_frames, 0)[..., None].astype(x.dtype)": "0 replaces all where there is no frame",
    "ser_jax/statistics/scores.py: "
    "sums = np.stack([np.bincount(group, weights=column, minlength=number) for column in columns], axis=1)": "the last"
    " axis is the first but one",
    "ser_jax/frontend/augment.py: numbers = jnp.arange(waveform.shape[ -1], dtype=jnp.int32)": "it has one axis",
    "ser_jax/frontend/logmel.py: if not is_portable():": "both ways give the same spectrum",
    "ser_jax/statistics/calibration.py: bounds = np.zeros( 1), np.array([1.0, 2.0])": "one zero is as good as two",
    "ser_jax/statistics/calibration.py: "
    'found = optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", '
    'options={"xatol": -0.9999})': "it only takes longer",
    "ser_jax/statistics/scores.py: return value(of_draws).mean(axis=+1)": "there are two axes",
    "ser_jax/training/step.py: if learner.accumulate == 2:": "the sum of one part is that of the whole",
    "ser_jax/training/objectives.py: return concordance(predicted[:, None, None], target[:, None, None], one_frame,"
    " known, axis_name)[ -1]": "there is one track",
    "ser_jax/training/step.py: "
    "return *_classified(learner, output, source), vectors[ -1].astype(jnp.float32)": "a model has one classifier",
    "ser_jax/frontend/logmel.py: "
    "return 3 * hz / 200 if hz <= 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)": "both parts meet there",
    "ser_jax/frontend/logmel.py: "
    "return np.where(mel <= 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))": "both parts meet there",
    "ser_jax/statistics/pooled.py: "
    "twice = [name for name in names if names.count(name) != 1]": "a name is among the names once at least",
    "ser_jax/training/checkpoints.py: enable_async_checkpointing=False,": "it only takes longer",
    "ser_jax/statistics/scores.py: cells = cell_sums(both[ 1], rows)": "paired tables have the same rows",
    "ser_jax/statistics/components.py: cell_of, cells = grid_of(tables[ -1])": "paired tables have the same rows",
    "ser_jax/training/step.py: "
    "keys = functools.partial(_row_keys, learner, num_rows=batch.label.shape[ -1])": "labels have one axis",
    "ser_jax/statistics/paired.py: pooled = np.tensordot(weights[ -1], "
    "metrics.unweighted_accuracy(cells.counts.sum(axis=2)), axes=1)": "there is one row of weights",
    "ser_jax/statistics/paired.py: by_fold = np.tensordot(weights[ -1], "
    "metrics.unweighted_accuracy(cells.by_fold()), axes=1)": "there is one row of weights",
    "ser_jax/training/loop.py: state = devices.joined([states[i] for i in chosen], counts, "
    "populations[ -1].layout.groups)": "the layout is part of the key of the programs that they share",
    "ser_jax/training/step.py: "
    'finite = jnp.isfinite(metrics["loss"] + norm * optax.tree.norm((parameters, batch_stats)))': "roots of sums"
    " in float32: the product of two is finite where both are",
    "ser_jax/training/step.py: vectors.append(args[ -1])": "a classifier takes one argument",
    "ser_jax/training/loop.py: count = max(1, int(made + _CALL_SECONDS / elapsed))": "calls of any length make the"
    " same steps",
    "ser_jax/frontend/logmel.py: dims: int = 1": "features that have dims say how many",
    "ser_jax/statistics/components.py: models: int = 1": "without their trainings it is not used",
    "ser_jax/statistics/components.py: trainings: int = -1": "without models that speakers share it is not used",
}

# "file: line" of which another number (#) makes no difference, whatever else (*) stands there: why.
KINDS = {
    "ser_jax/statistics/*: *seed: int = #*": "other draws are as good",
    "*: *default_rng(#)*": "other draws are as good",
    "*: *random.key(#)*": "other draws are as good",
    "ser_jax/statistics/*: REPLICATES = #": "the number of draws is no figure",
    "ser_jax/statistics/*: DRAWS = #*": "the number of draws is no figure",
    "ser_jax/statistics/*: *draws: int = #*": "the number of draws is no figure",
    "ser_jax/statistics/bootstrap.py: SMALL = 2**#*": "one thread and several give the same",
    "ser_jax/frontend/augment.py: *jnp.maximum(num_samples - 1, #)*": "without samples all is zero, whatever is read",
    "ser_jax/frontend/augment.py: _NOISE_OFFSETS = 1 << #*": "as many other stretches of noise are as good",
    "ser_jax/statistics/calibration.py: pooled = table.assign(seed=#)*": "any seed is one for all",
    "ser_jax/training/state.py: frames = *else #": "the shapes of parameters do not depend on the length",
    "ser_jax/training/loop.py: _CALL_SECONDS = #*": "calls of any length make the same steps",
}


@dataclasses.dataclass(frozen=True)
class Lie:
    """One change of one file: the number of the line, the line before and after, and the file's whole new text."""

    file: str
    number: int
    before: str
    after: str
    text: str = dataclasses.field(repr=False)

    @property
    def accepted(self) -> str | None:
        """Why nobody could see it; found without numbers of lines, which change too often."""
        before, after = (f"{self.file}: {line.strip()}" for line in (self.before, self.after))
        kinds = (reason for kind, reason in KINDS.items() if _pattern(kind).fullmatch(f"{before}\n{after}"))
        return ACCEPTED.get(after) or next(kinds, None)


def files_of(rooms: list[str]) -> list[str]:
    """The files that lies are told in: those whose errors would give another figure."""
    patterns = (
        "statistics/*.py",
        "corpora/protocols.py",
        "corpora/fold_lists.py",
        "feeds/order.py",
        "frontend/*.py",
        "models/normalisation.py",
        "training/objectives.py",
        "training/optimizers.py",
        "training/step.py",
        "training/state.py",
        "training/checkpoints.py",
        "training/loop.py",
    )
    package = ROOT / "ser_jax"
    found = sorted(file for pattern in patterns for file in package.glob(pattern) if file.name != "__init__.py")
    names = [file.relative_to(ROOT).as_posix() for file in found]
    return [name for name in names if not rooms or any(room in name for room in rooms)]


def tests_of(file: str) -> list[str]:
    """The test files that cover a file, those of its own name first."""
    path = Path(file)
    room = path.parent.relative_to("ser_jax")
    names = [f"{room}/test_{path.stem}.py", *COVERING.get(file, ())]
    found = [f"tests/{name}" for name in dict.fromkeys(names) if (ROOT / "tests" / name).is_file()]
    return found or sorted(test.relative_to(ROOT).as_posix() for test in (ROOT / "tests" / room).glob("test_*.py"))


def places_of(file: str) -> Iterator[tuple[int, str, int]]:
    """Yields (line, operator, occurrence) of every change that cosmic-ray knows for a file."""
    nodes = list(ast_nodes(get_ast((ROOT / file).read_text(encoding="utf-8"))))
    for name in operator_names():
        if name.startswith(("core/Variable", "core/RemoveDecorator", "core/ExceptionReplacer")):
            continue
        if name.startswith("core/ReplaceComparison") and name.endswith(("_Is", "_IsNot")):
            continue  # whether two equal numbers are one object is the interpreter's affair
        operator = get_operator(name)()
        starts = [start[0] for node in nodes for start, _ in operator.mutation_positions(node)]
        yield from ((line, name, occurrence) for occurrence, line in enumerate(starts))


def make_lie(file: str, operator: str, occurrence: int) -> Lie | None:
    """Changes a file; None where the change means nothing, as in an annotation."""
    code = (ROOT / file).read_text(encoding="utf-8")
    text = mutate_code(code, get_operator(operator)(), occurrence)
    if text is None or _meaning(text) in (_meaning(code), None):
        return None
    pairs = zip(code.splitlines(), text.splitlines(), strict=False)
    number, before, after = next((i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b)
    return Lie(file, number, before, after, text)


def sample(files: list[str], size: int, seed: int) -> tuple[list[Lie], list[Lie]]:
    """Draws lies, at most one for a line of code, lines being as likely as one another; and what it passed over."""
    lines: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for file in files:
        for line, operator, occurrence in places_of(file):
            lines.setdefault((file, line), []).append((operator, occurrence))
    rng = random.Random(seed)
    places = sorted(lines)
    rng.shuffle(places)
    lies, accepted = [], []
    for file, line in places:
        if len(lies) == size:
            break
        lie = make_lie(file, *rng.choice(lines[file, line]))
        if lie is not None:
            (accepted if lie.accepted else lies).append(lie)
    return lies, accepted


def main() -> int:
    """Draws the lies, runs the tests on each, and prints what passed unnoticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=100, help="how many lies (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (0)")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of files")
    parser.add_argument("--least", type=float, default=90, help="percent that have to be noticed (90)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="tests run side by side")
    args = parser.parse_args()
    lies, accepted = sample(files_of(args.only), args.sample, args.seed)
    if not lies:
        parser.error(f"--only {' '.join(args.only)}: no file of this name is mutated")
    places = threading.local()
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
        taken: dict[tuple[str, ...], float] = {}

        def noticed(lie: Lie) -> bool:
            if not hasattr(places, "folder"):
                places.folder = _copy(Path(tempfile.mkdtemp(dir=scratch)))
            wider = (f"tests/{name}" for name in WIDER[str(Path(lie.file).parent)])
            return any(
                _noticed(lie, places.folder, tests, taken) for tests in (tuple(tests_of(lie.file)), tuple(wider))
            )

        missed = []
        for number, (lie, seen) in enumerate(zip(lies, pool.map(noticed, lies), strict=True), 1):
            print(f"{number:3d}/{len(lies)} {'noticed' if seen else 'MISSED'}: {lie.file}:{lie.number}: ", end="")
            print(f"{lie.before.strip()}\n{'':20}-> {lie.after.strip()}", flush=True)
            missed += [] if seen else [lie]
    share = 100 * (1 - len(missed) / len(lies))
    print(f"\n{len(lies) - len(missed)} of {len(lies)} noticed ({share:.0f} %); {len(accepted)} were not told")
    for lie in missed + accepted:
        print(f"{lie.file}:{lie.number}\n  - {lie.before.strip()}\n  + {lie.after.strip()}")
        print(f"    not told: {lie.accepted}" if lie.accepted else "    no test notices it")
    return int(share < args.least)


def _copy(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _noticed(lie: Lie, folder: Path, tests: tuple[str, ...], taken: dict[tuple[str, ...], float]) -> bool:
    """Whether a test fails with the lie in place; the file is put back afterwards.

    `taken` are the seconds that tests take without a lie, which are added to it.
    """
    if tests not in taken:
        begun = time.monotonic()
        if not _passes(folder, tests, None):
            raise RuntimeError(f"tests that fail without a lie: {' '.join(tests)}")
        taken[tests] = time.monotonic() - begun
    file = folder / lie.file
    truth = file.read_text(encoding="utf-8")
    file.write_text(lie.text, encoding="utf-8")
    try:
        return not _passes(folder, tests, max(SECONDS, 3 * taken[tests]))
    finally:
        file.write_text(truth, encoding="utf-8")


def _passes(folder: Path, tests: tuple[str, ...], limit: float | None) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "SER_JAX_CORPORA": str(folder / "none")}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@functools.cache
def _pattern(kind: str) -> re.Pattern:
    """Fits the line before and after a change of the number alone: what else stands there is the same twice."""
    parts = [re.escape(part) for part in re.split(r"(?<!\*)\*(?!\*)", kind)]
    before, after = parts[0], parts[0]
    for number, part in enumerate(parts[1:], 1):
        before, after = f"{before}(.*){part}", f"{after}\\{number}{part}"
    return re.compile(f"{before}\n{after}".replace(r"\#", r" ?[\d_.]+"))


def _meaning(code: str) -> str | None:
    """The syntax tree without what no call that works can tell apart; None for what does not parse.

    That are annotations, which arguments go by name alone, `strict` of `zip` and `frozen` of a dataclass.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            named, by_name = node.args, [value for value in node.args.kw_defaults if value]
            named.args, named.posonlyargs = [*named.posonlyargs, *named.args, *named.kwonlyargs], []
            named.defaults, named.kwonlyargs, named.kw_defaults = [*named.defaults, *by_name], [], []
            for argument in named.args:
                argument.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "frozen"):
            node.value = ast.Constant(None)
    return ast.dump(tree)


if __name__ == "__main__":
    sys.exit(main())
