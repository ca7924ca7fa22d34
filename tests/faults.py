"""Lets the disk, the permissions and the memory fail under every command that writes, and looks at what comes of it.

    python -m tests.faults --points 12

Each command runs once undisturbed, where the calls that change files (open, write, rename, fsync ...) are counted. Then
it runs again and again with the disk full, without inodes, read-only or broken from one of these calls on, of a file
that may not be written, of a file where a folder should be, of folders that are gone or may not be read, and with
little memory. It has to end with status 2 and one line that names a path and the cause, or to do without what it could
not write. Nothing may be half-written or left behind, and the same command has to come to the undisturbed outcome after
all.

The disk fails by a layer before libc (tests/faults.c), which needs Linux and a C compiler; see `build`.
"""

import argparse
import atexit
import collections
import contextlib
import ctypes
import dataclasses
import errno
import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ser_jax import commands
from tests.soak import TEMPORARY, outcome_of_study

ROOT = Path(__file__).parents[1]
NOBODY = 65534
# The error of a call, and whether those calls alone fail that make a new file or folder.
ERRORS = {
    "full disk": (errno.ENOSPC, False),
    "no inodes": (errno.ENOSPC, True),
    "read-only": (errno.EROFS, False),
    "no permission": (errno.EACCES, False),
    "broken": (errno.EIO, False),
}
PLACES = "places"
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONWARNINGS": "ignore:os.fork",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A command. Paths in it begin with `{}`, the folder that it works in; `made` is what it makes there."""

    name: str
    arguments: tuple[str, ...]
    made: tuple[str, ...]


CONFIG = ("{}/config.json", "--data_dir", "{}/data")
CASES = (
    Case("prepare folder", ("prepare", "folder", "--name", "new", "--source", "{}/own", "--data_dir", "{}/data"),
         ("data/packed/new",)),
    Case("prepare features", ("prepare", "features", "--corpus", "own", "--name", "given", "--source",
         "{}/given.npz", "--data_dir", "{}/data"), ("data/packed/own/features/given",)),
    Case("prepare encoder", ("prepare", "encoder", "own", "--encoder", "tiny", "--data_dir", "{}/data"),
         ("data/packed/own/features",)),
    Case("encoders get", ("encoders", "get", "{}/taken", "--name", "other", "--licence", "mine", "--data_dir",
         "{}/data"), ("data/encoders/other",)),
    Case("train", ("train", *CONFIG, "--workdir", "{}/new", "--variant", "plain"), ("new",)),
    Case("study", ("study", *CONFIG, "--workdir", "{}/new"), ("new",)),
    Case("evaluate", ("evaluate", "--workdir", "{}/run", "--data_dir", "{}/data"), ("run/evaluation", "run/on_own")),
    Case("predict", ("predict", "{}/own/anger/0.wav", "--workdir", "emodb", "--out",
         "{}/emotions.csv", "--timeline", "{}/over.TextGrid", "--embeddings", "{}/vectors.npz"),
         ("emotions.csv", "over.TextGrid", "vectors.npz")),
    Case("report", ("report", "{}/run", "--out", "{}/again"), ("again",)),
    Case("publish", ("publish", "--workdir", "{}/one", "--tested", "{}/one", "--to", "{}/model", "--data_dir",
         "{}/data"), ("model",)),
    Case("export", ("export", "{}/one", "--to", "stablehlo", "--out", "{}/exported.stablehlo", "--seconds", "3"),
         ("exported.stablehlo.json",)),
    Case("compare", ("compare", "{}/run", "--out", "{}/compared"), ("compared",)),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a command: its status, what it said, and the number of calls that changed files."""

    status: int
    output: str
    errors: str
    calls: int


def build(folder: Path) -> Path | None:
    """Returns the layer, built into a folder; None where there is no C compiler, or no Linux."""
    library, compiler = folder / "faults.so", shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        return None
    source = str(ROOT / "tests" / "faults.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    return library


def make_recordings(folder: Path) -> int:
    """Makes recordings, and a table of them."""
    import numpy as np
    import soundfile

    rng, rows = np.random.default_rng(0), ["file_name,emotion,speaker"]
    for emotion, pitch in (("anger", 9), ("joy", 21)):
        (folder / "own" / emotion).mkdir(parents=True)
        for number in range(6):
            sound = 0.3 * np.sin(np.arange(5000) / pitch) + 0.05 * rng.normal(size=5000)
            soundfile.write(folder / "own" / emotion / f"{number}.wav", sound, 16000)
            rows.append(f"{emotion}/{number}.wav,{emotion},{'pq'[number % 2]}")
    (folder / "own" / "metadata.csv").write_text("\n".join([*rows, ""]))
    return 0


def make_sources(folder: Path) -> int:
    """Makes what else the commands begin with: features, an encoder and a configuration."""
    import numpy as np

    from ser_jax import config as configuration
    from tests.doors import tiny_encoder
    from tests.training.tiny import CONFIG as TINY

    np.savez(folder / "given.npz", **{f"{e}/{n}": np.ones(4) * n for e in ("anger", "joy") for n in range(6)})
    tiny_encoder(folder / "taken")
    changes = {
        "protocol": {"validation_speakers": 0},
        "training": {"checkpoint_seconds": 0.0, "validate_steps": 0, "train_steps": 4},
        "evaluation": {"latency": False},
        "study": {"variants": {"plain": {}, "noisy": {"augmentation": {"noise": 0.5}}}, "comparisons": []},
    }
    config = configuration.merge(TINY, changes) | {"corpus": {"name": "own"}}  # the tiny one is built in, with options
    (folder / "config.json").write_text(json.dumps(config))
    return 0


def make_base(folder: Path, cases: Sequence[Case]) -> None:
    """Makes what the commands work on: also a corpus, an encoder and trained workdirs, where one of them needs it."""
    used = " ".join(part for case in cases for part in case.arguments)
    used += " own " * any(place in used for place in ("{}/config.json", "{}/run", "{}/one"))
    made = [forked(lambda: make_recordings(folder))]
    if any(case.name != "prepare folder" for case in cases):
        made.append(forked(lambda: make_sources(folder)))
    for needed, arguments in (
        (" own ", ("prepare", "folder", "--name", "own", "--source", "{}/own", "--data_dir", "{}/data")),
        (" tiny ", ("encoders", "get", "{}/taken", "--name", "tiny", "--licence", "mine", "--data_dir", "{}/data")),
        ("{}/run", ("study", *CONFIG, "--workdir", "{}/run")),
        ("{}/one", ("train", *CONFIG, "--workdir", "{}/one", "--variant", "plain")),
    ):
        if needed in used:
            made.append(run(arguments, folder))
    for ran in made:
        if ran.status:
            raise RuntimeError(ran.errors)


def run(
    arguments: Sequence[str],
    folder: Path,
    fail: tuple[int, int, int, bool] = (0, 0, 0, False),
    before: Callable[[], None] | None = None,
) -> Ran:
    """Runs a command in a process of its own, in which calls below the folder fail: from, to, error (see `ERRORS`)."""

    def command() -> int:
        from ser_jax.commands.main import main

        if before:
            before()
        if layer := _layer():
            layer.faults_arm(os.fsencode(folder), *fail)
        try:
            return main([part.replace("{}", str(folder)) for part in arguments])
        except SystemExit as stop:  # argparse's own
            return stop.code

    return forked(command)


def forked(work: Callable[[], int]) -> Ran:
    """Does some work in a process of its own. This one has imported all that is needed, and must have no threads."""
    file = tempfile.TemporaryFile
    with file("w+") as output, file("w+") as errors, file() as number:
        sys.stdout.flush(), sys.stderr.flush()
        if (child := os.fork()) == 0:
            status = 70
            atexit._clear()  # what the first process would do at its end, as removing its temporary folders
            try:
                os.dup2(output.fileno(), 1), os.dup2(errors.fileno(), 2)
                status = work()
                atexit._run_exitfuncs()
                if layer := _layer():
                    os.write(number.fileno(), str(layer.faults_calls()).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        for text in (output, errors, number):
            text.seek(0)
        return Ran(os.waitstatus_to_exitcode(status), output.read(), errors.read(), int(number.read() or 0))


def _layer() -> ctypes.CDLL | None:
    """The layer, where it is loaded before libc; without it nothing fails."""
    layer = ctypes.CDLL(None)
    if not hasattr(layer, "faults_arm"):
        return None
    layer.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    return layer


def outcome(case: Case, folder: Path) -> dict[str, str]:
    """The hashes of all that a command makes, but for what differs between two undisturbed runs."""
    from ser_jax import checksums

    found = {}
    for name in case.made:
        place = folder / name
        if (place / "populations").is_dir():
            found[name] = outcome_of_study(place) if (place / "summary.json").exists() else None
        elif place.is_dir():
            found |= {f"{name}/{one}": checksums.sha256(place / one) for one in checksums.files_below(place)}
        elif place.exists():
            found[name] = checksums.sha256(place)
    return found


def left_behind(folder: Path) -> list[str]:
    """What is damaged, and what temporary files and folders lie around."""
    from ser_jax import checksums

    found = [str(path) for path in folder.rglob("*") if TEMPORARY.search(path.name)]
    found += [one for path in folder.rglob(checksums.FILE) for one in checksums.faults(path.parent)]
    trained = [folder / name for name in ("run", "one", "new") if (folder / name).is_dir()]
    return found + (json.loads(forked(lambda: print(json.dumps(damaged(trained))) or 0).output) if trained else [])


def damaged(workdirs: Iterable[Path]) -> list[str]:
    """What `verify` finds damaged. It reads checkpoints, which begins threads: not to be called before a fork."""
    from ser_jax.errors import UserError
    from ser_jax.studies.verify import DAMAGED, verify

    found = []
    for workdir in workdirs:
        with contextlib.suppress(UserError):  # nothing of the project's is there yet
            found += [f"{one.path}: {one.reasons}" for one in verify(workdir) if one.state == DAMAGED]
    return found


def not_said(ran: Ran, *named: str) -> list[str]:
    """What is wrong with how a command that could not do its work said so; one of the words `named` has to be there."""
    wrong = []
    if ran.status != 2:
        wrong.append(f"status {ran.status}")
    errors = [line for line in ran.errors.splitlines() if line.startswith("error: ")]
    if "Traceback" in ran.errors or "Exception ignored" in ran.errors or "Error: " in ran.errors:
        wrong.append("a traceback")
    if not errors or len(errors) > 2 or any(len(line) > 320 for line in errors):  # two: one for each variant
        wrong.append(f"{len(errors)} lines")
    if not all(any(word in line for word in named) for line in errors):
        wrong.append("no path")
    return [f"{', '.join(wrong)}: {ran.errors[-600:]}"] if wrong else []


class Campaign:
    """The commands and what they come to, undisturbed and disturbed, in a folder that is made anew for each."""

    def __init__(self, folder: Path, cases: Iterable[Case]) -> None:
        self.base, self.now, self.cases = folder / "base", folder / "now", tuple(cases)
        folder.chmod(0o755)
        self.now.mkdir()  # results name their folder: it is the same one for all commands
        make_base(self.now, self.cases)
        shutil.copytree(self.now, self.base)
        self.expected, self.calls = {}, {}
        for case in self.cases:
            self.fresh()
            ran = run(case.arguments, self.now)
            self.expected[case.name], self.calls[case.name] = outcome(case, self.now), ran.calls
            if ran.status or not self.expected[case.name]:
                raise RuntimeError(f"{case.name}, undisturbed: status {ran.status}, {case.made}: {ran.errors}")

    def fresh(self) -> Path:
        """Returns the folder as it was before any command."""
        subprocess.run(["chmod", "-R", "u+rwX", str(self.now)], check=True)
        shutil.rmtree(self.now)
        shutil.copytree(self.base, self.now)
        if os.getuid() == 0:  # see `as_a_user`
            subprocess.run(["chown", "-R", str(NOBODY), str(self.now)], check=True)
        return self.now

    def disturbed(self, case: Case, *, undo: Callable[[], None] = lambda: None, **how: object) -> list[str]:
        """Runs a command disturbed, and again undisturbed; returns what is wrong."""
        ran = run(case.arguments, self.now, **how)
        # States go on with what is partial; Orbax removes an unfinished checkpoint when a training goes on.
        wrong = [one for one in left_behind(self.now) if not one.endswith((".partial", ".orbax-checkpoint-tmp"))]
        if ran.status == 0:
            wrong += [] if outcome(case, self.now) == self.expected[case.name] else ["status 0, another outcome"]
        else:
            wrong += not_said(ran, str(self.now))
        undo()
        again = run(case.arguments, self.now)
        if again.status:
            wrong.append(f"the same command afterwards: status {again.status}: {again.errors[-400:]}")
        elif outcome(case, self.now) != self.expected[case.name]:
            wrong.append("the same command afterwards comes to another outcome")
        return wrong + [f"after all: {one}" for one in left_behind(self.now)]

    def disk(self, case: Case, kind: str, points: int) -> tuple[int, list[str]]:
        """Lets the disk fail from some of a command's calls on; returns how often, and what was wrong."""
        calls, wrong = self.calls[case.name], []
        chosen = sorted({1 + round(i * (calls - 1) / max(points - 1, 1)) for i in range(points)})
        for call in chosen:
            self.fresh()
            found = self.disturbed(case, fail=(call, 10**9, *ERRORS[kind]))
            wrong += [f"{case.name}, {kind} from call {call} of {calls} on: {one}" for one in found]
        return len(chosen), wrong

    def places(self, case: Case) -> tuple[int, list[str]]:
        """Takes away what a command reads, forbids it, and puts a file or a forbidden folder where it writes."""
        given = [part for part in case.arguments if part.startswith("{}/")]
        tried, wrong = 0, []
        for part in given:
            path = Path(part.replace("{}", str(self.now)))
            there = (self.base / path.relative_to(self.now)).exists()
            for kind, change in (("gone", remove), ("unreadable", forbid)) if there else (("unwritable", forbid),):
                self.fresh()
                change(path if there else path.parent)
                ran = run(case.arguments, self.now, before=as_a_user)
                tried += 1
                named = (str(self.now), *(word for word in case.arguments if word.startswith("--")), " own ")
                found = left_behind(self.now) + (not_said(ran, *named) if ran.status else [])
                if not ran.status and outcome(case, self.now) != self.expected[case.name]:
                    found.append("status 0, another outcome")
                wrong += [f"{case.name}, {part} {kind}: {one}" for one in found]
            if not there:
                (self.fresh() / "file").touch()
                arguments = [part.replace("{}", "{}/file") if one == part else one for one in case.arguments]
                found = not_said(run(arguments, self.now), f"{self.now}/file")
                tried += 1
                wrong += [f"{case.name}, {part} below a file: {one}" for one in found]
        return tried, wrong


def remove(path: Path) -> None:
    """Removes a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def forbid(path: Path) -> None:
    """Lets nobody read a file or folder, nor write to it."""
    path.chmod(0)


def as_a_user() -> None:
    """Root may read and write everything: without it, who runs the command is somebody else."""
    if os.getuid() == 0:
        os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)


def start(cases: Sequence[Case]) -> None:
    """Imports all that the commands import later, so that their processes have it at once; starts no device."""
    needed = ["pyarrow.dataset", "scipy.signal", "ser_jax.corpora.prepare"]
    # A process as another user may not be able to read what is imported later, Python's own library among it.
    needed += [f"{commands.__name__}.{module.name}" for module in pkgutil.iter_modules(commands.__path__)]
    if any(case.name != "prepare folder" for case in cases):  # which needs no JAX
        needed += ["ser_jax.encoders.extract", "ser_jax.encoders.store", "ser_jax.export.stablehlo"]
        needed += [f"ser_jax.studies.{name}" for name in ("compare", "evaluate", "heard_files", "publish", "render")]
        needed += ["ser_jax.studies.run", "ser_jax.studies.verify"]
    for name in needed:
        importlib.import_module(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=12, help="calls of each command that fail (default: %(default)s)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this command")
    parser.add_argument("--kind", action="append", choices=(*ERRORS, PLACES), help="only this fault")
    args = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    if not os.environ.get("LD_PRELOAD"):  # again, with the layer before libc
        library = build(Path(scratch.name))
        if library is None:
            parser.error("needs Linux and a C compiler")
        programs = {"JAX_COMPILATION_CACHE_DIR": f"{tempfile.gettempdir()}/ser_jax_faults_{os.getuid()}"}
        environment = os.environ | ENVIRONMENT | programs | {"LD_PRELOAD": str(library)}
        return subprocess.run(
            [sys.executable, "-m", "tests.faults", *sys.argv[1:]], env=environment, check=False
        ).returncode
    cases = [case for case in CASES if not args.case or case.name in args.case]
    start(cases)
    campaign, wrong = Campaign(Path(scratch.name), cases), []
    kinds, counts = args.kind or (*ERRORS, PLACES), collections.defaultdict(dict)
    for case in cases:
        for kind in kinds:
            tried, found = campaign.places(case) if kind == PLACES else campaign.disk(case, kind, args.points)
            counts[case.name][kind] = (tried, len(found))
            wrong += found
            said = f"{case.name}, {kind}: {tried} tried, {len(found)} wrong"
            print(said, *found, sep="\n  ", file=sys.stderr, flush=True)
    print(f"| command | calls that change files | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    for name, row in counts.items():
        cells = " | ".join(f"{tried - bad} of {tried}" for tried, bad in row.values())
        print(f"| {name} | {campaign.calls[name]} | {cells} |")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
