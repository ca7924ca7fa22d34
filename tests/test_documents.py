"""Commands, configurations, links and file names in the documents are those of the code."""

import contextlib
import functools
import io
import operator
import re
import shlex
from pathlib import Path

import pytest

from ser_jax import config
from ser_jax.commands.common import load_config
from ser_jax.commands.main import _split, make_parser
from ser_jax.errors import UserError
from ser_jax.frontend import Strengths
from ser_jax.training import setup

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
SOURCES = [*DOCUMENTS, *sorted(ROOT.glob("configs/**/*.py")), *sorted(ROOT.glob("ser_jax/commands/*.py"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_CONFIGURATION = re.compile(r"\bconfigs/[\w/]+\.py(?::[\w.,-]*\w)?")
_FOLDERS = "ser_jax|docs|configs|tests|benchmarks|pretrained"
_FILE = re.compile(rf"(?<![\w/.-])(?:{_FOLDERS})/[\w./-]*\w/?")
_MODULE = re.compile(r"python -m ((?:benchmarks|docs|tests)\.[\w.]*\w)")
_PLACEHOLDER = re.compile(r"[A-Z_]{3,}|\bNAME\b|\bDIR\b")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _shell(path: Path) -> str:
    """Returns what a reader is meant to type: fenced blocks of a document, or the whole of a Python file."""
    text = path.read_text()
    return text if path.suffix == ".py" else "\n".join(block for _, block in _FENCE.findall(text))


def commands(text: str) -> list[list[str]]:
    """Returns the arguments of every `python launch.py` of a text, without comments and what else a shell reads."""
    found = []
    for line in re.sub(r"\\+\n", " ", text).splitlines():
        # The command's own line, or behind an environment's variable, or in a loop of the shell.
        if match := re.match(r"(?:[A-Z_]+=\S+ |.*; do |\s*)python launch\.py(.*)", line):
            words = shlex.split(match[1], comments=True)
            end = next((i for i, word in enumerate(words) if word in ("&", "&&", "|", ">", "done")), len(words))
            found.append(words[:end])
    return found


COMMANDS = [(path, words) for path in SOURCES for words in commands(_shell(path))]


def test_documents_have_commands():
    assert len(COMMANDS) > 60
    assert commands("X=1 python launch.py train a \\\n  --b c  # d\nfor i in 1; do python launch.py list & done") == [
        ["train", "a", "--b", "c"],
        ["list"],
    ]


@pytest.fixture
def parts_of_ones_own(tmp_path, monkeypatch):
    """The module that docs/extending.md writes, as mine/parts.py."""
    (tmp_path / "mine").mkdir()
    blocks = dict(_FENCE.findall((ROOT / "docs" / "extending.md").read_text()))
    (tmp_path / "mine" / "parts.py").write_text(blocks["python"])
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("path", "words"), COMMANDS, ids=[f"{_name(path)}: {' '.join(words)}"[:120] for path, words in COMMANDS]
)
def test_a_command_is_parsed_and_its_configuration_loads(path, words, parts_of_ones_own, monkeypatch):
    monkeypatch.chdir(ROOT)
    words, overrides = _split(words)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            args, rest = make_parser().parse_known_args(words)
    except SystemExit as stop:
        assert stop.code == 0 and "--help" in words, said.getvalue()
        return
    assert rest == []
    assert not overrides or "config" in args, f"{args.command} takes no {overrides}"
    if getattr(args, "config", None) or getattr(args, "config_option", None):
        args.overrides = overrides
        if args.command == "audit":
            config.load(args.config, overrides)
        elif not _of_a_workdir(args.config or args.config_option):
            _check_input(load_config(args))


def _check_input(tree: dict) -> None:
    """Makes what refuses input that does not go together, as a training does before it begins."""
    setup.make_masking(tree, setup.make_frontend(tree))
    config.construct(Strengths, tree["augmentation"], "config.augmentation")


def test_defaults_in_the_table_of_options_are_those_of_the_code():
    rows = re.findall(r"^\| (`[\w.]+`.*?) \| (`.*?) \|", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for names, defaults in rows:
        for name, default in zip(re.findall("`(.*?)`", names), re.findall("`(.*?)`", defaults), strict=True):
            value = functools.reduce(operator.getitem, name.split("."), config.default())
            assert default == (",".join(map(str, value)) if isinstance(value, tuple) else str(value)), name


def _of_a_workdir(name: str) -> bool:
    return name.endswith(".json") and not name.startswith("docs/")


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_configuration_that_is_named_loads(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = []
    for name in sorted(set(_CONFIGURATION.findall(path.read_text()))):
        try:
            config.load(name if not _PLACEHOLDER.search(name) else name.partition(":")[0])
        except UserError as error:
            wrong.append(str(error))
    assert wrong == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_local_links_lead_somewhere(path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        if not aim.exists() or (heading and heading not in _headings(aim)):
            broken.append(target)
    assert broken == []


def _headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_that_are_named_exist(path):
    text = path.read_text()
    named = set(_FILE.findall(text)) | {f"{name.replace('.', '/')}*" for name in _MODULE.findall(text)}
    missing = [name for name in sorted(named) if not _exists(name)]
    assert missing == []


def _exists(name: str) -> bool:
    """Whether there is such a file, or some for a name with parts in capitals."""
    name = name.rstrip("/")
    return (ROOT / name).exists() or any(ROOT.glob(re.sub(r"[A-Z][A-Z_]+", "*", name)))


def test_the_index_leads_to_every_document():
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", (ROOT / "docs" / "index.md").read_text()))
    assert linked == {path.name for path in ROOT.glob("docs/*.md")} - {"index.md"}
