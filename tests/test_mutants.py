"""The mutation test's list of changes that nobody could see: each is still of a line that there is."""

import difflib

from tests import mutants


def lines_of(file):
    return [line.strip() for line in (mutants.ROOT / file).read_text(encoding="utf-8").splitlines()]


def test_every_change_that_is_not_told_is_of_a_line_that_there_is():
    for name in mutants.ACCEPTED:
        file, changed = name.split(": ", 1)
        assert changed not in lines_of(file)
        assert difflib.get_close_matches(changed, lines_of(file), n=1, cutoff=0.8), name
    lines = [f"{file}: {line}" for file in mutants.files_of([]) for line in lines_of(file)]
    for kind in mutants.KINDS:
        assert any(mutants._pattern(kind).fullmatch(f"{line}\n{line}") for line in lines), kind


def test_only_another_number_in_the_place_of_a_kind_is_accepted():
    def accepted(after, file="ser_jax/statistics/bootstrap.py", before="replicates: int = 5, seed: int = 0,"):
        return mutants.Lie(file, 1, before, after, "").accepted

    assert accepted("replicates: int = 5, seed: int =  1,") == "other draws are as good"
    assert accepted("replicates: int =  6, seed: int = 0,") is None
    assert accepted("replicates: int = 5, seed: int = -1,") is None
    assert accepted("replicates: int = 5, seed: int =  1,", file="ser_jax/corpora/protocols.py") is None
