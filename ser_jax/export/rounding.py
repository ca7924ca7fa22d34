"""Whole numbers in a program."""

from jaxtyping import Array, Int


def rounded_share(i: Int[Array, ""] | int, whole: Int[Array, ""] | int, shares: Int[Array, ""] | int) -> Array:
    """Returns the nearest whole number to i * whole / shares, and of two the even one, without a product beyond int32.

    `i` is at most some thousands, as `shares` is.
    """
    least, more = whole // shares, whole % shares
    known, rest = i * least + i * more // shares, i * more % shares
    return known + (2 * rest > shares) + ((2 * rest == shares) & (known % 2 == 1))
