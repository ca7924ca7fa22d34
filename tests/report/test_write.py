import csv
import dataclasses
import html.parser
import io
import re
import shutil
import xml.etree.ElementTree as ElementTree

import markupsafe
import pytest

from ser_jax.report import html as html_page
from ser_jax.report import latex, markdown, vector_graphics
from ser_jax.report import summary as summaries
from ser_jax.report.answers import sentence
from ser_jax.report.blocks import Answer, Cell, Figure, Items, Section, Table
from ser_jax.report.sections import make_sections, subtitle
from ser_jax.report.sources import Sources
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Study
from ser_jax.report.write import write_report
from tests.report import made_study

SOME = [
    "channel attention: relu, none",
    "channel attention: relu, eca",
    "decoder: <b>none</b>",
    "decoder: additive",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small study with everything in it, its summary and the folder of its report."""
    folder = tmp_path_factory.mktemp("study")
    made = made_study.make_summary(made_study.make_predictions(SOME))
    summaries.write(made, folder / "summary.json")
    made = summaries.read(folder)
    bare = made_study.without_people(made).variants
    for name in SOME[:2]:  # drawings take the time: two variants have all of them
        made.variants[name] = bare[name]
        del made.robustness.variants[name]
    curves, configs = made_study.make_curves(SOME[2:]), made_study.make_configs(SOME)
    picture = folder / "picture.png"
    picture.write_bytes(PIXEL)
    pictures = {"decoder: additive": picture}
    write_report(folder, made, curves=curves, pictures=pictures, configs=configs)
    return made, folder


def sources_of(made, **given):
    return Sources(made, **{"curves": {}, "pictures": {}, "configs": {}, **given})


def bare_study(variants=SOME, seeds=(0,)):
    """A summary without anything that a study can add to it."""
    return made_study.make_summary(made_study.make_predictions(variants, seeds), whole=False)


# What it says -------------------------------------------------------------------------------------------------------


def test_every_number_of_the_table_of_variants_is_that_of_the_summary(study):
    made, folder = study
    rows = tables_of(folder / "report.html")["table-variants"]
    head, body = rows[0], rows[1:]
    assert [row[0][0] for row in body] == SOME  # the transductive one is the last of them
    assert [row[1][0] for row in body] == ["inductive", "inductive", "inductive", "transductive"]
    for row in body:
        variant, cells = made.variants[row[0][0]], dict(zip([text for text, _ in head], row, strict=True))
        for column, key in (("UA", "ua"), ("WA", "wa"), ("macro F1", "macro_f1")):
            one = variant.metrics[key]
            low, high = ("100" if end == 1 else f"{100 * end:.1f}" for end in one.ci95)
            assert cells[column] == (f"{100 * one.value:.1f}{low}–{high}", str(one.value))
        assert cells["SD over seeds, points"] == (f"{100 * variant.ua_seed_sd:.1f}", str(variant.ua_seed_sd))
        assert cells["parameters"][1] == str(variant.known.parameters)
        assert cells["multiply-adds, millions"][1] == str(variant.known.cost.multiply_adds)
        assert cells["latency, relative"][1] == str(variant.known.cost.latency)
        assert cells["runs"][1] == "12"


def test_every_comparison_stands_in_the_table_with_its_interval_and_p_values(study):
    made, folder = study
    rows = tables_of(folder / "report.html")["table-comparisons"][1:]
    assert len(rows) == len(made.comparisons) == 2
    for row, one in zip(rows, made.comparisons, strict=True):
        low, high = (f"{100 * end:+.1f}" for end in one.ci95)
        assert (row[0][0], row[1][0]) == (one.variant, one.baseline)
        assert row[2] == (f"{100 * one.estimate:+.1f}[{low}, {high}]", str(one.estimate))
        assert (row[3][0], row[3][1]) == (f"{one.p_holm:.3f}{one.p:.3f}", str(one.p_holm))
        assert row[4][0] == one.verdict
        values = (one.detectable, one.seeds_share, one.with_twice_seeds, one.nadeau_bengio.p, one.folds * one.seeds)
        assert [value for _, value in row[5:]] == [str(value) for value in values]


def test_answers_come_first_and_every_question_has_its_own(study):
    made, folder = study
    page = (folder / "report.html").read_text()
    places = [page.index(markupsafe.escape(question.answer)) for question in made.questions]
    assert len(places) == 2 and places == sorted(places)
    assert places[-1] < page.index('id="differences"') < page.index('id="variants"') < page.index('id="conditions"')


def test_each_comparison_of_an_answer_is_an_item_of_a_list():
    made = bare_study(seeds=(0, 1))
    said = [sentence(one) for one in made.comparisons]
    stored = summaries.Question("both_pools", "Do they?", {}, {}, (0, 1), (), (), answer=" ".join(said))
    crossed = Answer("Crossed", "", ("a differs.", "b does not."), "Averaged over the other factor:")
    (answers, *_) = make_sections(sources_of(dataclasses.replace(made, questions=(stored,))))
    sections = [answers, Section("crossed", "Crossed", (crossed,))]
    page, text = html_page.render("t", "s", sections, {}), markdown.render("t", "s", sections)
    assert "Both pools." in text and "both_pools" not in text
    items = re.findall(r"<li>(.*?)</li>", page[page.index('<ul class="says">') :])
    assert len(said) == 2 and items[:2] == [markupsafe.escape(one) for one in said]
    lead = page.index('<p class="says">Averaged over the other factor:</p>')
    assert lead < page.index("<li>a differs.</li>") < page.index("<li>b does not.</li>")
    lines = [re.sub(r"\W", "", line) for line in text.splitlines() if line.startswith("> - ")]
    assert lines[:2] == [re.sub(r"\W", "", one) for one in said]
    assert text.endswith("**Crossed.**\n\n> Averaged over the other factor:\n>\n> - a differs.\n> - b does not.\n")


def test_markdown_says_the_same_as_the_page(study):
    made, folder = study
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert len(headings) == 13
    for name, rows in tables_of(folder / "report.html").items():
        for row in rows[1:]:
            wanted = [re.sub(r"\W", "", text) for text, _ in row]
            assert wanted in markdown_rows(text), name
    for question in made.questions:
        assert re.sub(r"\W", "", question.answer) in re.sub(r"&\w+;|\W", "", text)
    for path in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (folder / path).is_file()


def test_latex_tables_hold_the_rows_and_escape_what_latex_would_read(study):
    made, folder = study
    table = (folder / "tables" / "variants.tex").read_text()
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(SOME)
    assert len({line.count(" & ") for line in rows}) == 1
    assert "$<$b$>$none$<$/b$>$" in table
    assert f"{100 * made.variants[SOME[0]].ua.value:.1f}" in rows[1]
    assert not re.search(r"(?<!\\)[%#_]", re.sub(r"^%.*$", "", table, flags=re.MULTILINE))
    assert not {character for character in table if ord(character) > 127} - {"ä"}


def test_of_one_speaker_of_unknown_gender_there_is_no_table_of_dashes():
    made = summarise(made_study.make_predictions(SOME[:1]).query("speaker == '03'"), how=How(replicates=50))
    blocks = next(one for one in make_sections(sources_of(made)) if one.id == "speakers").blocks
    assert [type(block) for block in blocks] == [Figure, Items]


@pytest.mark.parametrize("name", ["[a]", "*"])
def test_a_row_that_begins_with_a_sign_of_latexs_line_break_is_a_row_of_its_own(name):
    table = Table("t", "", ("variant", "UA"), ((Cell(name), Cell("1.0")),))
    assert f"\n{{}}{name} & 1.0 \\\\\n" in latex.render(table)


def test_a_summary_without_what_a_study_adds_gives_a_report_that_says_what_it_lacks(tmp_path):
    write_report(tmp_path, bare_study(SOME[2:3]))
    page = (tmp_path / "report.html").read_text()
    missing = page[page.index('id="missing"') : page.index('id="methods"')]
    for what in ("audit", "latency", "learning curves", "calibration", "robustness", "attention weights", "licence"):
        assert what in missing
    assert 'id="calibration"' not in page and 'id="effects"' not in page


def test_without_comparisons_it_does_not_say_which_variant_is_better():
    made = bare_study(SOME[:1])
    (answer,) = make_sections(sources_of(made))[0].blocks
    assert answer.says[0].startswith(f"The highest UA is {100 * made.variants[SOME[0]].ua.value:.1f}")
    made = bare_study([SOME[0], SOME[3]])  # no comparison among these two
    (answer,) = make_sections(sources_of(made))[0].blocks
    assert "names no comparisons" in answer.says[0] and "does not test" in answer.says[0]


def test_the_verdict_stands_in_the_answer():
    made = bare_study(seeds=(0, 1))
    one = made.comparisons[0]
    for verdict, words in (
        ("difference", "a significant difference"),
        ("equivalent", "equivalent within 2 points"),
        ("undecided", "undecided"),
        (None, "no verdict"),
    ):
        changed = dataclasses.replace(one, verdict=verdict, p=0.2, p_holm=0.2, p_equivalence=0.2)
        answers = make_sections(sources_of(dataclasses.replace(made, comparisons=(changed,))))[0].blocks
        assert words in answers[0].says[0]


def test_what_failed_diverged_or_was_left_out_is_named(study):
    page = (study[1] / "report.html").read_text()
    missing = page[page.index('id="missing"') : page.index('id="methods"')]
    for words in (
        "rnn location failed: config.model.attention: out of memory",
        "decoder: additive: fold 03, seed 7 diverged at step 40; its predictions are missing",
        "1 utterance of made left out when it was prepared: broken (an empty file)",
        "Labels of made: joy as happiness",
        "2 recordings of made clipped: a, b",
    ):
        assert words in missing


NAMES = {"anger": "生气/angry", "boredom": "disappointment, disapproval", "fear": "<unk>", "neutral": "$50%_sad|low$"}


def test_names_with_markup_and_other_scripts_go_through_every_renderer(tmp_path, recwarn):
    table = made_study.make_predictions(SOME[2:])
    named = table.rename(columns={f"p_{old}": f"p_{new}" for old, new in NAMES.items()})
    named = named.assign(
        label=named["label"].map(NAMES),
        variant=named["variant"].str.replace("decoder: additive", "cost $\\x$ a$_$b *c* \x1b[1m"),
    )
    made = summarise(named, Study(fold_sizes=made_study.SIZES), how=How(replicates=50))
    write_report(tmp_path, made)
    assert not recwarn.list
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "生气/angry" in page and "&lt;unk&gt;" in page and "<unk>" not in page
    assert "\x1b" not in page + text and "\\x1b" in page
    assert r"\$50%\_sad\|low\$" in text and r"\<unk\>" in text and r"a\$\_\$b \*c\*" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows if r"\<unk\>" in line} == {6}
    tex = (tmp_path / "tables" / "recall.tex").read_text()
    assert r"\$50\%\_sad$|$low\$" in tex and "$<$unk$>$" in tex and "生气/angry" in tex
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)
    missing = page[page.index('id="missing"') : page.index('id="methods"')]
    assert ("boxes" in missing) == bool(vector_graphics.missing_signs("生气"))


def test_one_seed_is_said_where_it_matters():
    text = text_of(make_sections(sources_of(bare_study())))
    assert "With one seed, how much UA varies between seeds is not known." in text
    assert "ticks under a line" not in text


def test_the_verdict_on_each_protocol_is_stated():
    made = made_study.make_summary(made_study.make_predictions(SOME[:2]))
    (protocol,) = made.study.protocols
    apart = "(1 fold): independent; no speakers or recordings are in both training and test data."
    assert f"Audit of the split {apart}" in text_of(make_sections(sources_of(made)))

    def with_second(independent, **changes):
        second = dataclasses.replace(
            protocol, name="random", speaker_independent=independent, audit={**protocol.audit, **changes}
        )
        return dataclasses.replace(made, study=dataclasses.replace(made.study, protocols=(protocol, second)))

    leaking = with_second(False, verdict="leaks", reason="speakers are in both training and test data")
    text = text_of(make_sections(sources_of(leaking)))
    assert f"Audit of the split of leave one speaker out {apart}" in text
    assert "split of random (1 fold): LEAKS; speakers are in both training and test data." in text
    assert "SPEAKER-DEPENDENT" in subtitle(leaking)
    assert "the split LEAKS" in subtitle(
        with_second(True, verdict="leaks", reason="texts are in both training and test data")
    )
    unknown = with_second(None, verdict="cannot be told", reason="the speakers of some utterances are not known")
    text = text_of(make_sections(sources_of(unknown)))
    assert "(1 fold): CANNOT BE TOLD; the speakers of some utterances are not known." in text
    assert "independence CANNOT BE TOLD" in subtitle(unknown) and "SPEAKER-DEPENDENT" not in subtitle(unknown)


@pytest.mark.parametrize(
    ("licence", "words", "absent"),
    [
        ("CC BY-NC-SA 4.0", ("Non-commercial", "same licence", "cited"), ()),
        ("CC0 1.0", (), ("cited", "Non-commercial")),
    ],
)
def test_the_licence_of_the_corpus_says_what_it_asks(licence, words, absent):
    made = dataclasses.replace(bare_study(SOME[:1]), study=Study(corpus_info={"licence": licence}))
    text = text_of(make_sections(sources_of(made)))
    assert all(word in text for word in words) and not any(word in text for word in absent)


def test_the_whole_study_has_its_three_questions_and_every_section():
    made = made_study.make_summary(made_study.make_predictions(seeds=(0,)))
    sections = make_sections(sources_of(made))
    assert len([block for block in sections[0].blocks if isinstance(block, Answer)]) == 3
    assert {"effects", "cost", "speakers", "calibration", "robustness"} <= {section.id for section in sections}
    names = [panel.name for s in sections for b in s.blocks if isinstance(b, Figure) for panel in b.panels]
    assert len(names) == len({name.lower() for name in names})


def test_variants_whose_names_differ_in_signs_alone_have_drawings_of_their_own():
    one = next(iter(bare_study(SOME[:1]).variants.values()))
    made = dataclasses.replace(bare_study(SOME[:1]), variants={"a b": one, "a_b": one, "A B": one})
    sources = sources_of(made)
    assert len({sources.file_name("confusion", name).lower() for name in sources.variants}) == 3


# What is written ----------------------------------------------------------------------------------------------------


def test_the_page_holds_all_it_shows_and_nothing_of_the_machine(study):
    _, folder = study
    page = (folder / "report.html").read_text()
    assert not re.search(r"<link|@import|src=\"(?!data:)|url\((?!#)", page)
    for text in (page, (folder / "report.md").read_text()):
        assert str(folder) not in text and "/tmp/" not in text
    assert "<b>none" not in page and "&lt;b&gt;none" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_figures_are_whole_svg_and_pdf_files(study):
    _, folder = study
    for path in (folder / "figures").glob("*.svg"):
        ElementTree.parse(path)
    pdfs = list((folder / "figures").glob("*.pdf"))
    assert {"forest.pdf", "ua.pdf", "confusion.pdf"} <= {path.name for path in pdfs}
    assert all(path.read_bytes().rstrip().endswith(b"%%EOF") for path in pdfs)


def test_the_same_study_gives_the_same_files_also_when_read_from_its_file(tmp_path):
    made = bare_study(SOME[:1])
    summaries.write(made, tmp_path / "summary.json")
    for name, one in (("made", made), ("read", summaries.read(tmp_path))):
        write_report(tmp_path / name, one)
    files = [path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*.*")]
    assert len(files) > 6
    assert all((tmp_path / "made" / file).read_bytes() == (tmp_path / "read" / file).read_bytes() for file in files)


def test_a_report_appears_whole_or_not_at_all(study, tmp_path):
    _, folder = study
    shutil.copy(folder / "report.html", tmp_path / "report.html")
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path, bare_study(SOME[:1]), pictures={SOME[0]: tmp_path / "not there.png"})
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()


# In a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on the PATH to open the report in")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_report(browser, folder, complaints, **options):
    page = browser.new_page(**options)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def only_the_file(route):
        if not route.request.url.startswith(("file:", "data:")):
            complaints.append(f"asked for {route.request.url}")
        route.continue_()

    page.route("**/*", only_the_file)
    page.goto((folder / "report.html").as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_a_file_without_an_error_a_request_or_an_overflow(study, browser, scheme):
    complaints = []
    page = open_report(browser, study[1], complaints, color_scheme=scheme)
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(TEXT_SIZES)
        assert len(sizes) > 100 and min(sizes) >= 9  # CSS pixels, of text in figures
    ink, paper = page.evaluate(
        "[getComputedStyle(document.querySelector('#forest-figure_1').closest('svg')).color,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    assert not complaints
    page.close()


def test_it_prints_black_on_white_with_nothing_folded(study, browser):
    page = open_report(browser, study[1], [], color_scheme="dark", viewport={"width": 690, "height": 900})
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<details>x</details>')")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    background, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert brightness(background) == 255 and brightness(ink) < 60
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")
    page.close()


def test_a_table_sorts_by_its_numbers_and_filters_by_words(study, browser):
    made, folder = study
    page = open_report(browser, folder, [])
    names = "[...document.querySelectorAll('#table-variants tbody tr:not([hidden]) th')].map(one => one.textContent)"
    by_ua = sorted(SOME, key=lambda name: made.variants[name].ua.value)
    head = page.locator("#table-variants th", has_text="UA").first
    button = page.get_by_role("region", name="Table variants").get_by_role("button", name="UA", exact=True)
    button.click()
    assert page.evaluate(names) == by_ua[::-1] and head.get_attribute("aria-sort") == "descending"
    button.click()
    assert page.evaluate(names) == by_ua and head.get_attribute("aria-sort") == "ascending"
    page.locator("#table-variants th").first.click()
    assert page.evaluate(names) == sorted(SOME)
    field = page.locator("figure:has(#table-variants) input")
    field.fill("DECODER add")
    assert page.evaluate(names) == ["decoder: additive"]
    assert page.locator("figure:has(#table-variants) output").inner_text() == "1 of 4 rows"
    field.fill("")
    assert len(page.evaluate(names)) == 4
    page.close()


def test_a_variant_is_hidden_and_what_is_left_is_copied_as_the_files_have_it(study, browser):
    made, folder = study
    page = open_report(browser, folder, [])
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")  # the real one asks
    tools = page.locator("figure:has(#table-variants) .tools")

    def copied(form):
        page.evaluate("window.copied = null")
        tools.get_by_role("button", name=form).click()
        page.wait_for_function("window.copied !== null")
        tools.locator("[role=status]", has_text="copied").wait_for()
        return page.evaluate("window.copied")

    for name in ("variants", "comparisons"):
        tools = page.locator(f"figure:has(#table-{name}) .tools")
        assert copied("LaTeX") == (folder / "tables" / f"{name}.tex").read_text()
        assert copied("Markdown") in (folder / "report.md").read_text()
    page.locator(".shown summary").click()
    page.get_by_role("checkbox", name=SOME[1]).uncheck()
    tools = page.locator("figure:has(#table-variants) .tools")
    rows = list(csv.reader(io.StringIO(copied("CSV"))))
    assert [row[0] for row in rows[1:]] == [SOME[0], *SOME[2:]] and {len(row) for row in rows} == {len(rows[0])}
    ua = made.variants[SOME[0]].ua
    low, high = (f"{100 * end:.1f}" for end in ua.ci95)
    assert (
        dict(zip(*rows[:2], strict=True)).items()
        >= {"UA": f"{100 * ua.value:.1f}", "UA, below": f"{low}–{high}"}.items()
    )
    names = "[...document.querySelectorAll('#table-comparisons tbody tr:not([hidden]) th')].map(one => one.textContent)"
    assert page.evaluate(names) == [
        one.variant for one in made.comparisons if SOME[1] not in (one.variant, one.baseline)
    ]
    panels = (
        "[...document.querySelectorAll('[data-variant]')].filter(one => !one.hidden).map(one => one.dataset.variant)"
    )
    assert set(page.evaluate(panels)) == {SOME[0], *SOME[2:]}
    page.get_by_role("checkbox", name=SOME[1]).check()
    assert set(page.evaluate(panels)) == set(SOME)
    page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 400)])
def test_axe_finds_nothing_that_keeps_a_reader_out(study, browser, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.goto((study[1] / "report.html").as_uri())
    page.locator(".shown summary").click()
    found = axe.Axe().run(page).response
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert "color-contrast" in {one["id"] for one in found["passes"]}
    page.close()


def test_what_a_figure_shows_is_said_where_the_pointer_is(study):
    made, folder = study
    svg = ElementTree.parse(next((folder / "figures").glob("confusion_01_*.svg")))
    said = {title.text for title in svg.iter("{http://www.w3.org/2000/svg}title")}
    confusion = made.variants[SOME[0]].confusion
    anger, boredom = made.emotions[:2]
    assert f"{anger}, predicted as {boredom}: {confusion[0][1]:g} of {sum(confusion[0]):g}" in said
    assert len(said) == len(made.emotions) ** 2
    one = made.comparisons[0]
    tips = re.findall("<title>(.*?)</title>", (folder / "figures" / "forest.svg").read_text())
    assert any(f"{100 * one.estimate:+.1f}" in tip and "[" in tip for tip in tips)
    assert any(f"up to {100 * one.detectable:.1f} points" in tip for tip in tips)
    page = (folder / "report.html").read_text()
    assert "&lt;b&gt;none" in "".join(re.findall("<title>(.*?)</title>", page)) and 'id="tip' not in page


# Helpers ------------------------------------------------------------------------------------------------------------

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000"
    "000049454e44ae426082"
)
TEXT_SIZES = """
[...document.querySelectorAll('svg text')].filter(one => one.getClientRects().length).map(one =>
  parseFloat(getComputedStyle(one).fontSize) * one.closest('svg').getBoundingClientRect().width
  / one.closest('svg').viewBox.baseVal.width)
"""


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


class TableParser(html.parser.HTMLParser):
    """Tables of a page: id -> rows of (text, data-value)."""

    def __init__(self):
        super().__init__()
        self.tables, self.table, self.cell = {}, None, None

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "table":
            self.table = self.tables[attributes["id"]] = []
        elif tag == "tr":
            self.table.append([])
        elif tag in ("th", "td"):
            self.cell = ["", attributes.get("data-value")]

    def handle_data(self, data):
        if self.cell:
            self.cell[0] += data

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.table[-1].append((self.cell[0].strip(), self.cell[1]))
            self.cell = None


def tables_of(path):
    parser = TableParser()
    parser.feed(path.read_text())
    return parser.tables


def markdown_rows(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[re.sub(r"\W", "", cell) for cell in line.strip("| ").split(" | ")] for line in lines]


def text_of(sections):
    return " ".join(str(block) for section in sections for block in section.blocks)
