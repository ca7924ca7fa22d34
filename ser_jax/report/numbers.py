"""How numbers are written: every share, difference, interval, p value and size of a table, sentence or figure."""

from collections.abc import Sequence

MISSING = "–"

Ends = Sequence[int | float] | None


def percent(share: int | float | None) -> str:
    """A share from 0 to 1 as percent with one decimal."""
    return MISSING if share is None else f"{100 * share:.1f}"


def points(share: int | float | None, *, sign: bool = True) -> str:
    """A difference of shares as percentage points with one decimal: "+1.2", "-0.8"; "0.0" has no minus."""
    if share is None:
        return MISSING
    value = round(100 * share, 1) + 0.0
    return f"{value:+.1f}" if sign else f"{value:.1f}"


def decimal(value: int | float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A number with so many decimals; "0.000" has no minus."""
    if value is None:
        return MISSING
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def percent_ends(ends: Ends) -> str:
    """An interval of shares, to stand under its figure: "83.1–87.9"; nothing for None."""
    # "90.0–100.0" would widen every column of a table.
    return "" if ends is None else "–".join("100" if end >= 1 else percent(end) for end in ends)


def point_ends(ends: Ends) -> str:
    """An interval of differences: "[-1.9, +1.4]"; nothing for None."""
    return "" if ends is None else f"[{_end(100 * ends[0], 1)}, {_end(100 * ends[1], 1)}]"


def signed_ends(ends: Ends, digits: int = 3) -> str:
    """An interval of differences of numbers: "[-0.012, +0.034]"; nothing for None."""
    return "" if ends is None else f"[{_end(ends[0], digits)}, {_end(ends[1], digits)}]"


def _end(value: int | float, digits: int) -> str:
    """An end of an interval of differences; one that would read as zero says on which side of it it lies: "+0.03"."""
    if round(value, digits) or not value:
        return decimal(value, digits, sign=True)
    return f"{value:+.1g}" if abs(value) >= 1e-4 else f"{value:+.4f}"  # the former would be +1e-05


def decimal_ends(ends: Ends, digits: int = 3) -> str:
    """An interval of numbers, to stand under its figure; nothing for None."""
    return "" if ends is None else "–".join(decimal(end, digits) for end in ends)


def percent_with(share: int | float | None, ends: Ends) -> str:
    """A share with its interval: "85.5 [83.1, 87.9]"."""
    return percent(share) + ("" if ends is None else f" [{percent(ends[0])}, {percent(ends[1])}]")


def points_with(share: int | float, ends: Ends, unit: str = "") -> str:
    """A difference with its interval: "-0.2 points [-1.9, +1.4]"."""
    return f"{points(share)}{unit} {point_ends(ends)}".strip()


def decimal_with(value: int | float, ends: Ends, digits: int = 3) -> str:
    """A number with its interval: "0.261 [0.123, 0.398]"."""
    inside = "" if ends is None else f" [{decimal(ends[0], digits)}, {decimal(ends[1], digits)}]"
    return decimal(value, digits) + inside


def span(shares: Sequence[int | float]) -> str:
    """The smallest and the largest of differences: "+1.5 to +4.4", or one number where they read the same."""
    low, high = points(min(shares)), points(max(shares))
    return low if low == high else f"{low} to {high}"


def detectable(shares: Sequence[int | float]) -> str:
    """The smallest and the largest detectable difference; "> 100" points are none that shares can have."""
    low, high = ("> 100" if share > 1 else points(share, sign=False) for share in (min(shares), max(shares)))
    return low if low == high else f"{low} to {high}"


def p_value(value: int | float | None) -> str:
    """A p value with three decimals, as a table has it; "0.050" is not below 0.05, "< 0.050" is."""
    if value is None:
        return MISSING
    text = decimal(value)
    return "< 0.001" if value < 0.001 else f"< {text}" if value < 0.05 and text == "0.050" else text


def p_equals(value: int | float) -> str:
    """A p value in a sentence: "p = 0.012" or "p < 0.001"."""
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def size(number: int) -> str:
    """A number of parameters in three digits: "0.35 M" or "3.44 k"."""
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number / 1e3:.3g} k"


def whole(number: int) -> str:
    """A whole number with its thousands apart: "86,345"."""
    return f"{number:,}"


def millions(number: int | float) -> str:
    """A number in millions with one decimal."""
    return f"{number / 1e6:,.1f}"


def clock(seconds: int | float) -> str:
    """A duration: "12 s", "3 min 20 s" or "1 h 5 min"."""
    total = round(seconds)
    hours, minutes = total // 3600, total // 60 % 60
    if total < 60:
        return f"{total} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {total % 60} s"


def duration(seconds: int | float) -> str:
    """Returns about how long something takes: 45 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def join(parts: Sequence[str], word: str = "and") -> str:
    """Parts as a list in a sentence: "a, b and c"."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def sentence_case(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
