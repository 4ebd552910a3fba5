"""Columns of parameters, and what has to change in the files for new ones."""

from pathlib import Path

import numpy as np
import openmm
import openmm.app
import pytest

from diffff.errors import InputError
from diffff.frontend.rows import Column, changes
from diffff.frontend.xml import Document

TIP3P = Path(openmm.app.__file__).parent / "data" / "amber14" / "tip3p.xml"


def rows_of(document, tag):
    return [(document, element) for element in document.root.walk() if element.tag == tag]


def read(text, name="x.xml"):
    return Document.parse(text.encode(), name)


def test_a_column_over_two_files():
    one, two = read('<ForceField><B k="1"/><B k="2.50"/></ForceField>'), read('<ForceField><B n="a"/></ForceField>')
    rows = rows_of(one, "B") + rows_of(two, "B")
    column = Column.of_attribute(rows, "k", default=4.0)
    np.testing.assert_array_equal(column.initial, [1.0, 2.5, 4.0])
    assert changes([(column, column.initial)]) == {}
    assert changes([(column, [1, 2, 4])]) == {one: {(rows[1][1], "k"): "2.0"}}
    made = changes([(column, np.array([1.0, 2.75, 4.0]))])
    assert made == {one: {(rows[1][1], "k"): "2.75"}}
    made = changes([(column, np.array([1.5, 2.5, 3.0]))])
    assert one.edited(made[one]) == b'<ForceField><B k="1.5"/><B k="2.50"/></ForceField>'
    assert two.edited(made[two]) == b'<ForceField><B n="a" k="3.0"/></ForceField>'


def test_single_precision_changes_nothing_by_itself():
    document = Document.read(TIP3P)
    column = Column.of_attribute(
        [row for row in rows_of(document, "Atom") if "epsilon" in row[1].attributes], "epsilon"
    )
    values = column.initial.astype(np.float32)
    assert np.any(values != column.initial) and changes([(column, values)]) == {}
    values[0] = np.nextafter(values[0], np.float32(1))
    ((text,),) = [made.values() for made in changes([(column, values)]).values()]
    assert np.float32(text) == values[0]


def test_a_map():
    document = read("<ForceField><Map> 1.0 2\n 3 </Map></ForceField>")
    column = Column.of_text(document, document.root.children[0])
    made = changes([(column, [1.0, 2.5, 3.0])])
    assert document.edited(made[document]) == b"<ForceField><Map> 1.0 2.5\n 3 </Map></ForceField>"


def test_openmm_loads_what_was_written(tmp_path):
    document = Document.read(TIP3P)
    atoms = [row for row in rows_of(document, "Atom") if "sigma" in row[1].attributes]
    column = Column.of_attribute(atoms, "sigma")
    oxygen = [element.attributes["type"] for _, element in atoms].index("tip3p-O")
    values = column.initial.copy()
    values[oxygen] *= 1.01
    document.write(tmp_path / "new.xml", changes([(column, values)])[document])
    topology = openmm.app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    atoms = [topology.addAtom(name, openmm.app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")]
    for hydrogen in atoms[1:]:
        topology.addBond(atoms[0], hydrogen)
    system = openmm.app.ForceField(str(tmp_path / "new.xml")).createSystem(topology)
    (nonbonded,) = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert nonbonded.getParticleParameters(0)[1]._value == values[oxygen]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('k="abc"', r"x\.xml, line 2: <B>: k is 'abc', which is no number"),
        ('k="nan"', r"x\.xml, line 2: <B>: k is 'nan', which is not finite"),
        ('l="1"', r'x\.xml, line 2: <B> has no attribute "k"\. Add k='),
    ],
)
def test_what_is_no_number(attributes, message):
    document = read(f"<ForceField>\n<B {attributes}/></ForceField>")
    with pytest.raises(InputError, match=message):
        Column.of_attribute(rows_of(document, "B"), "k")


def test_a_text_with_words():
    document = read("<ForceField><Map>1 x</Map></ForceField>")
    with pytest.raises(InputError, match=r"<Map>: number 1 is 'x', which is no number"):
        Column.of_text(document, document.root.children[0])


def test_values_that_cannot_be_written():
    document = read('<ForceField>\n<B k="1"/></ForceField>')
    column = Column.of_attribute(rows_of(document, "B"), "k")
    with pytest.raises(InputError, match=r"x\.xml, line 2: <B>: k would become nan"):
        changes([(column, [np.nan])])
    with pytest.raises(ValueError, match="a column of 1 numbers got an array of shape"):
        changes([(column, [1.0, 2.0])])
    with pytest.raises(ValueError, match="two different numbers"):
        changes([(column, [2.0]), (column, [3.0])])
