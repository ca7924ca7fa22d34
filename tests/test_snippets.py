"""Every snippet of the documents runs in a test or in CI, is parsed by what would run it, or is left for a reason."""

import collections
import dataclasses
import io
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from ser_jax import api, config
from ser_jax.commands.main import main
from ser_jax.corpora import packed_folder
from ser_jax.corpora.corpus import SAMPLE_RATE, save, waveform
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.studies import pace
from ser_jax.studies.plan import make_plan
from tests.export.test_export import sound, write
from tests.studies.test_compare import save as save_results
from tests.studies.test_compare import study
from tests.test_documents import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pretrained/*/README.md")]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:python|\.venv/bin/python|make|pip|source|git|ser-jax|tensorboard|cat|export|for)\b"
)

MAKES = ("--out", "--html", "--timeline", "--embeddings", "--attention")  # options that name what a command writes

# What becomes of "DOCUMENT: SNIPPET", by the first pattern that fits. The name of a file is of the test that runs it.
HERE, PARSED = "run here", "parsed"
IN_ORDER = "tests/test_pages_in_order.py"
PLANNED = f"{PARSED}: networks as others have; {IN_ORDER} has --dry_run plan them on miniatures"
RULES = {
    r"docs/newcomer\.md: ": "tests/test_pages.py",
    r"docs/using_models\.md: import|docs/using_models\.md: (table|timeline|abstention) ": "tests/test_pages.py",
    r"docs/exporting\.md: (import|from)": "tests/export/test_export.py",
    r"docs/extending\.md: import": "tests/test_documents.py",
    r"docs/your_corpus\.md: import": "tests/corpora/test_prepare.py",
    r"docs/models\.md: python launch\.py models": "tests/commands/test_models.py",
    r".*: (\.venv/bin/)?python launch\.py --help": "tests/test_launch.py",
    r".*: make (quickstart|test|site|references)$": ".ci/run",
    r".*launch\.py study configs/quickstart\.py --workdir runs/quickstart$": ".ci/run",  # what `make quickstart` does
    r".*: pip install \.$": "tests/test_package.py",
    r"docs/installation\.md: ser-jax study": ".ci/run",
    r".*: python launch\.py (inspect|audit) synthetic$": ".ci/run",
    r".*: python launch\.py (status|report) runs/quickstart$": ".ci/run",
    r".*: python launch\.py (study configs/quickstart\.py --dry_run|verify data runs/quickstart .*)$": ".ci/run",
    r".*: python -m docs\.equal_silence ": "tests/test_equal_silence.py",
    # Left out, and why.
    r".*: pip install ": "downloads packages",
    r".*: git clone": "downloads the repository",
    r".*: source ": "changes the shell alone",
    r".*: tensorboard ": "a server that does not end; tests/trackers reads what it would",
    r".*--microphone": "needs a microphone; tests/corpora/test_microphone.py has one of its own",
    r".*python launch\.py demo": "a server that does not end; tests/test_demo.py opens it",
    r".*--slurm": "needs a cluster; tests/studies/test_run.py submits to a stand-in",
    r".*: for i in": "six jobs for a GPU",
    r".*: export XLA": "six jobs for a GPU",
    r".*--coordinator": "two processes at once; tests/training starts four",
    r".*python launch\.py encoders get": "downloads a package; tests/encoders reads its files",
    # Not run, and why. Arguments are parsed and configurations loaded.
    r".*: make ": f"{PARSED}: minutes to hours",
    r".*python -m (pytest|benchmarks|tests)\b": f"{PARSED}: minutes to hours",
    r".*study configs/baselines\.py:calls$": f"{PARSED}: openSMILE's functionals; docs/newcomer.md has a variant",
    r"README\.md: .*(study|report|status) .*runs/calls_attention": f"{PARSED}: docs/newcomer.md has the same elsewhere",
    r".*python launch\.py predict --workdir pretrained/\w+_encoder ": f"{PARSED}: needs the encoder itself",
    r".*study \S*(sweep|placement|attention\.py(:\w+,shufflenet)? )": f"{PARSED}: 6 to 20 networks",
    r"docs/(models|pretrained|recipes|studies|training|tutorial)\.md: .* (train|study) ": f"{PARSED}: several networks",
    r".*python launch\.py (publish|track) |.*export runs/se ": f"{PARSED}: needs a training that is parsed",
    r"docs/pretrained\.md: .* prepare encoder ": f"{PARSED}: what a training needs that is parsed",
    r".*--workdir runs/(unlabelled|initialised) ": f"{PARSED}: several networks",
    # Planned on miniatures.
    r".*study \S*(attention|layers|adaptation|encoder_choice)\.py": PLANNED,
    r".*study docs/results/(encoder_pooling|adaptation)/": PLANNED,
    r".*--workdir runs/(wide|heads) ": PLANNED,
    r".*train configs/recipe\.py:(iemocap|emodb,rnn --config)": PLANNED,
    # Trained on miniatures, and what needs their results.
    r"docs/pretrained\.md: .* (evaluate|prepare merge) ": HERE,
    r".*python launch\.py (train|study|evaluate|export) ": IN_ORDER,
    r".*python launch\.py prepare (encoder|features|merge|crema_d|iemocap) ": IN_ORDER,
    r".*python launch\.py prepare folder --source runs/ravdess_equal ": IN_ORDER,
    r".*--(abstain|variant) ": IN_ORDER,
    r".*": HERE,
}


def snippets():
    """(document, snippet) of every Python block and every command, without comments."""
    for path in sorted(DOCUMENTS):
        name = str(path.relative_to(ROOT))
        for language, block in _FENCE.findall(path.read_text()):
            if language == "python":
                yield name, block
            elif language in ("", "bash"):
                lines = re.sub(r"\\+\n\s*", " ", block).splitlines()
                yield from ((name, re.sub(r"\s+#.*", "", line).strip()) for line in lines if _PROGRAM.match(line))


SNIPPETS = list(snippets())


ROAD = {snippet for document, snippet in SNIPPETS if document == "docs/newcomer.md"}


def place(document, snippet):
    document = "docs/newcomer.md" if snippet in ROAD else document  # the same command, elsewhere
    return next(how for pattern, how in RULES.items() if re.match(pattern, f"{document}: {snippet}"))


def of(how):
    return [(document, snippet) for document, snippet in SNIPPETS if place(document, snippet) == how]


def test_few_snippets_are_left_out_and_every_rule_is_needed():
    places = collections.Counter(place(*one) for one in SNIPPETS)
    assert set(RULES.values()) == set(places)
    files = {how for how in places if how.startswith(("tests/", ".ci/"))}
    run = places[HERE] + sum(places[how] for how in files)
    parsed = [one for one in SNIPPETS if place(*one).startswith(PARSED)]
    left = {one[1] for one in SNIPPETS if one not in parsed and place(*one) not in {HERE, *files}}  # some in every card
    print(f"{len(SNIPPETS)} snippets: {run} run, {len(parsed)} are parsed, {len(left)} commands are left out")
    assert run >= 117 and len(parsed) <= 58 and len(left) <= 16
    assert all((ROOT / how).is_file() for how in files)
    ci = (ROOT / ".ci/run").read_text()
    commands = [snippet for _, snippet in of(".ci/run") if "launch.py" in snippet and "--workdir" not in snippet]
    assert len(commands) == 6 and all(f"/{snippet}\n" in ci for snippet in commands)
    for page in ("newcomer", "using_models", "exporting", "extending"):
        (how,) = {place(*one) for one in SNIPPETS if one[0] == f"docs/{page}.md"} & files - {IN_ORDER}
        assert f"{page}.md" in (ROOT / how).read_text()  # it reads them there


def test_what_is_parsed_is_parsed():
    known = {" ".join(words) for _, words in COMMANDS}
    for document, snippet in [one for one in SNIPPETS if place(*one).startswith((PARSED, IN_ORDER))]:
        if match := re.search(r"python launch\.py (.*)", snippet):
            if not document.startswith("pretrained/"):
                assert " ".join(shlex.split(match[1])) in known, snippet
        elif snippet.startswith("make "):
            run = subprocess.run(["make", "-n", *shlex.split(snippet)[1:]], cwd=ROOT, capture_output=True, text=True)
            assert run.returncode == 0 and "--" in run.stdout, snippet
        elif "pytest" in snippet:
            assert all((ROOT / word).is_dir() for word in shlex.split(snippet) if word.startswith("tests/"))
        else:
            _, _, module, *arguments = shlex.split(snippet)
            source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
            for option in (one for one in arguments if one.startswith("--")):
                assert option in source, snippet


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with recordings, a corpus and models of a few parameters under the documents' names."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("a.wav", "b.wav", "b.flac", "my.wav", "new.wav", "recordings/a.wav", "more/x/b.flac"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, sound(20000), SAMPLE_RATE)
    soundfile.write(folder / "meeting.wav", sound(50000), SAMPLE_RATE)
    voices = make_synthetic("synthetic", num_speakers=3, utterances_per_speaker=4)
    rows = ["path,emotion,speaker"]
    (folder / "RECORDINGS").mkdir()
    for row, utterance in voices.utterances.iterrows():
        soundfile.write(folder / "RECORDINGS" / f"{row}.wav", waveform(voices, row), SAMPLE_RATE)
        rows.append(f"{row}.wav,{utterance['emotion']},{utterance['speaker']}")
    (folder / "calls.csv").write_text("\n".join(rows) + "\n")
    model = write(folder / "model", "linear")
    for name in ("pretrained/emodb", "pretrained/both", "pretrained/ravdess", "runs/calls"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(model)
    write(folder / "runs" / "rnn", "rnn")
    shutil.copytree(model, folder / "runs" / "se")
    results = study(("ECA", "none"))
    for name in ("attention", "quickstart", "se"):
        save_results(folder / "runs" / name, results)
    results[results["variant"] == "none"].drop(columns="variant").to_csv(folder / "others.csv", index=False)
    for name in ("emodb", "ravdess"):
        save(dataclasses.replace(voices, name=name), packed_folder(name, folder / "data"))
        (folder / "runs" / f"{name}_attention").symlink_to(ROOT / "docs/results/encoder_pooling" / name)
    shutil.copytree(ROOT / "docs/results/emodb_eca", folder / "runs" / "calls_attention")
    for name in ("configs", "docs", "pretrained/emodb_encoder"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def _commands():
    """Commands that run in the folder; those that make something come first, where their documents have them."""
    runs = re.compile(r"(cat \S+ \| )?(\S*python launch\.py|ser-jax) ")
    found = [snippet for _, snippet in of(HERE) if runs.match(snippet)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("snippet", _commands())
def test_a_command_runs(snippet, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    monkeypatch.setenv("SER_JAX_DATA", str(world / "data"))
    monkeypatch.setattr(api, "PRETRAINED", world / "pretrained")
    monkeypatch.setattr(pace, "seconds_of_run", lambda *_: 1.0)  # `plan` times trainings
    if piped := re.match(r"cat (\S+) \| (.*)", snippet):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((world / piped[1]).read_bytes())))
        snippet = piped[2]
    words = list(itertools.takewhile(lambda word: word != "&", shlex.split(snippet)))
    words = words[2:] if words[0].endswith("python") else words[1:]
    if words[:2] == ["prepare", "folder"]:
        words.append("--force")  # several documents prepare it
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    made = [Path(after) for option, after in itertools.pairwise(words) if option in MAKES]
    assert all(path.stat().st_size for path in made) and (said or made)


def test_python_fragments_are_configurations_questions_and_arrays(world, monkeypatch, tmp_path, capsys):
    fragments = [(document, snippet) for document, snippet in of(HERE) if "\n" in snippet]
    assert len(fragments) == 4
    commands = [snippet for _, snippet in of(HERE) if "\n" not in snippet]
    assert set(commands) == set(_commands())  # nothing of what is said to run here is missing
    text = dict(fragments)
    (tmp_path / "mine.py").write_text(text["docs/configuration.md"])
    assert config.load(f"{tmp_path / 'mine.py'}:ravdess")["model"]["width"] == 16
    (tmp_path / "baseline.py").write_text("def get_config():\n    return {" + text["docs/baselines.md"].strip() + "}\n")
    assert config.load(str(tmp_path / "baseline.py"))["model"]["functionals"] == "egemaps"
    names = {}
    exec(text["docs/studies.md"], names)
    (tmp_path / "study.py").write_text(
        text["docs/studies.md"] + '\n\ndef get_config():\n    return {"study": {"questions": questions}}\n'
    )
    plan = make_plan(config.load(str(tmp_path / "study.py")))
    assert len(plan.variants) == 6 and len(plan.comparisons) == 4
    monkeypatch.chdir(ROOT)
    exec(text["docs/pretrained.md"], {})
    assert capsys.readouterr().out.startswith("(")
