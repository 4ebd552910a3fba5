"""The tag ``<CustomGBForce>``: expressions of values that each atom gets from its neighbours, such as Born radii."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from diffff.errors import InputError
from diffff.frontend import scripts
from diffff.frontend.gb_force import law_of, numbers_of, reach_of
from diffff.frontend.group import Options, Parameters, numbered, row_numbers
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.custom_gb import Kind, custom_gb

TAG = "CustomGBForce"
_EXPRESSIONS = {"ComputedValue": ("name", "type"), "EnergyTerm": ("type",)}


@dataclass(frozen=True, eq=False)
class GBSection:
    """One section. The traced System has one force for each, in the order of the files."""

    parameters: Parameters
    of_rows: tuple[str, ...]  # its own columns with a number for each row
    document: Document
    section: Element
    name: str
    place: int  # among the sections of this tag

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`."""
        columns = [self.parameters.columns[name] for name in self.of_rows]
        return {key: mark for column in columns for key, mark in numbered(column).items()}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`. Each atom needs a row, whatever ``missing`` says: OpenMM refuses a topology otherwise.

        Raises:
            InputError: an expression is malformed, or uses names that nothing defines.
        """
        force = trace.system.findall(f"Forces/Force[@type='{TAG}']")[self.place]
        try:
            law = law_of(force)
            rows = row_numbers(numbers_of(force))
            by_name = dict(zip(law.parameters, rows.T, strict=True))
            return [custom_gb(law=law, rows=by_name, **reach_of(force)._asdict(), name=self.name)]
        except InputError as error:
            raise InputError(f"{self.document.where(self.section)}: {error}") from error


def check_expressions(documents: Sequence[Document], document: Document, section: Element) -> None:
    """Refuse a section that OpenMM or diffff would not understand.

    Args:
        documents: all files.
        document: the one of the section.
        section: the ``<CustomGBForce>``.

    Raises:
        InputError: an expression is empty, or lacks a name or a kind; or a script adds another implicit solvent.
    """
    for tag, attributes in _EXPRESSIONS.items():
        for element in section.find_all(tag):
            if missing := [name for name in attributes if not element.attributes.get(name)]:
                raise InputError(f'{document.where(element)} has no {missing[0]}. Add {missing[0]}="…".')
            if element.attributes["type"] not in get_args(Kind):
                raise InputError(
                    f'{document.where(element)} has type="{element.attributes["type"]}"; it must be one of '
                    f"{', '.join(get_args(Kind))}."
                )
            if not element.text.strip():
                raise InputError(f"{document.where(element)} is empty. Write its expression between the tags.")
    for other in documents:
        for script in other.root.children:
            if script.tag in scripts.TAGS and scripts.purpose(script) == scripts.IMPLICIT_SOLVENT:
                raise InputError(
                    f"{document.where(section)} and the script of {other.path} are two implicit solvents; "
                    "leave one out."
                )
