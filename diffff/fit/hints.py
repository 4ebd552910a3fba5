"""What there is, where a rule or a tie selects nothing."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from diffff.fit.row_names import ATOMS, atoms_of, attributes_of, fits, in_words, patterns_of
from diffff.frontend.rows import Place

_ALL = 12  # up to which all there is is told
_NEAREST = 6


def hint(
    select: str,
    where: Mapping[str, str | Sequence[str]] | None,
    places: Mapping[str, Sequence[Place]],
    arrays: str = "arrays",
) -> str:
    """Why nothing is selected, and what could have been meant.

    Args:
        select: pattern over the names of arrays.
        where: conditions on their rows.
        places: the rows of each array, none where it stands in no file.
        arrays: what messages call these arrays.
    """
    chosen = [path for path in places if fnmatchcase(path, select)]
    if not chosen:
        return f"The {arrays} are {', '.join(places)}."
    of, rows = ", ".join(chosen), [place for path in chosen for place in places[path]]
    if not rows:
        return f"{of} has no rows."
    for key, given in (where or {}).items():
        if not any(fits(place, {key: given}) for place in rows):
            patterns = patterns_of(given)
            return _of_atoms(patterns, rows, of) if key == ATOMS else _of_attribute(key, patterns, rows, of)
    return f"There are rows of {of} for each of the conditions, but none for all of them."


def _of_atoms(patterns: Sequence[str], rows: Sequence[Place], of: str) -> str:
    lengths = sorted({len(atoms_of(place)) for place in rows})
    if len(patterns) not in lengths:
        types = f"{len(patterns)} type{'' if len(patterns) == 1 else 's'}"
        return f'"{ATOMS}" names {types}, the rows of {of} have {" or ".join(map(str, lengths))}.'
    same = dict.fromkeys(in_words(names) for names in map(atoms_of, rows) if len(names) == len(patterns))
    return f"No row of {of} is for {in_words(patterns)}; {_there_are(in_words(patterns), same)}."


def _of_attribute(key: str, patterns: Sequence[str], rows: Sequence[Place], of: str) -> str:
    keys = dict.fromkeys(key for place in rows for key in attributes_of(place))
    if key not in keys:
        return f'The rows of {of} have {", ".join(keys)}; their types or classes go by "{ATOMS}" too.'
    values = dict.fromkeys(attributes_of(place)[key] for place in rows if key in attributes_of(place))
    wanted = " or ".join(f'"{pattern}"' for pattern in patterns)
    return f"No {key} in the rows of {of} is {wanted}; {_there_are(patterns[0], values)}."


def _there_are(wanted: str, values: Iterable[str]) -> str:
    """All values, or of many the nearest ones."""
    texts = [value or '""' for value in values]
    if len(texts) <= _ALL:
        return f"there are {', '.join(texts)}"
    near = get_close_matches(wanted.replace("*", ""), texts, _NEAREST, cutoff=0.0)
    return f"of {len(texts)} the nearest are {', '.join(near)}"
