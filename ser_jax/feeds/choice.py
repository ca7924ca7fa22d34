"""Which feed a training gets: the corpus on the devices where it fits, else streamed."""

from ser_jax.corpora.corpus import Corpus
from ser_jax.errors import UserError
from ser_jax.feeds.resident import ADDRESSED, padded_size

_CORPUS_SHARE = 0.5  # of a device's free memory; the rest is for the population's states and activations


def choose_feed(
    asked: str, corpus: Corpus, *, longest_read: int, memory: int, only_resident: str = ""
) -> tuple[str, str]:
    """Returns "resident" or "streaming", and why.

    `asked` is a configuration's `feed`; `memory` what is free of each device, in bytes; `only_resident` what
    the training needs that cannot be streamed. Raises `UserError` for one that cannot be had: a corpus that
    the devices cannot hold or number, and cannot or must not be streamed.
    """
    samples = padded_size(corpus, longest_read)
    size = samples * corpus.samples.nbytes // max(len(corpus.samples), 1)
    figures = f"corpus {corpus.name} takes {size / 2**30:.2f} GiB of {memory / 2**30:.1f} GiB free on each device"
    if asked == "streaming" and only_resident:
        raise UserError(f"config.feed=streaming: {only_resident} cannot be streamed; expected auto or resident")
    if asked == "resident" or only_resident:
        impossible = ""
        if samples >= ADDRESSED:
            impossible = f"corpus {corpus.name} has {len(corpus.samples)} samples, and fewer than 2^31 can be numbered"
        elif size > memory:
            impossible = figures
        if impossible and only_resident:
            raise UserError(f"{impossible}, and {only_resident} cannot be streamed; expected a smaller corpus")
        if impossible:
            raise UserError(f"config.feed=resident: {impossible}; expected auto or streaming")
        return "resident", f"{only_resident} cannot be streamed" if only_resident else "config.feed says so"
    if asked == "streaming":
        return asked, "config.feed says so"
    if samples >= ADDRESSED:
        return "streaming", f"corpus {corpus.name} has {len(corpus.samples)} samples, and 2^31 can be numbered"
    if size > _CORPUS_SHARE * memory:
        return "streaming", f"{figures}, more than half"
    return "resident", figures
