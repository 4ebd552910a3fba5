"""Tables of text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table with two spaces or more between columns, the first to the left, the others to the right.

    Example:
        >>> aligned([("", "force"), ("training", "1.5 eV/Å")])
        ['             force', 'training  1.5 eV/Å']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for first, *cells in rows
    ]
