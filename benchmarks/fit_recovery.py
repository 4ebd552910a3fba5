"""Does a fit find a known force field again, and are its error bars right?

    python benchmarks/fit_recovery.py --seeds 1 2 3 4 5

Energies and forces of --frames frames of ethanol (data/ethanol, 300 and 500 K) are computed by OpenMM with GAFF's
numbers, and get normal noise. The fit starts from numbers that are all off by up to 20 % (the charges stay neutral),
and moves all of them: bonds, angles, torsions, charges, Lennard-Jones parameters. Beside the bond C2-O stands a second
spring of the same length, a planted degeneracy: only the sum of both force constants is determined.

Printed for each seed (noise and start): objective, how many of the numbers that the fit calls determined are within 1,
2 and 3 of its error bars, and the mean square deviation in units of these (1 if they are right); and the numbers that
it calls not determined.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import openmm as mm
import openmm.app as app

from diffff import units
from diffff.fit.record import read_record

DATA = Path(__file__).parents[1] / "data" / "ethanol"
SPRING = """ <CustomBondForce energy="0.5*k2*(r-r2)^2">
  <PerBondParameter name="k2"/>
  <PerBondParameter name="r2"/>
  <Bond class1="c3" class2="oh" k2="100000" r2="0.1426"/>
 </CustomBondForce>
</ForceField>"""
KEPT = [
    {"select": "NonbondedForce/*14scale", "treatment": {"train": False}},
    {"select": "NonbondedForce/*", "where": {"type": ["HO"]}, "treatment": {"train": False}},  # epsilon is 0
    {"select": "CustomBondForce/r2", "treatment": {"train": False}},
]
RULES = [
    {"select": "NonbondedForce/charge", "treatment": {"scale": 0.05}},
    *KEPT,
    {"select": "Harmonic*Force/*", "treatment": {"bounds": [0, None]}},
    {"select": "NonbondedForce/*", "treatment": {"bounds": [0, None]}},
    {"select": "*"},
]


def main() -> None:
    """Print a line for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="of each temperature")
    parser.add_argument("--noise", type=float, nargs=2, default=(0.2, 20.0), help="kJ/mol, kJ/mol/nm")
    parser.add_argument("--off", type=float, default=0.2, help="of the start")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    print("| seed | objective | steps | determined | within 1, 2, 3 error bars | mean square | not determined |")
    print("|---" * 7 + "|", flush=True)
    squares = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            row, deviations = recovered(Path(name), options, seed)
        print(row, flush=True)
        squares.append(np.mean(deviations**2))
    print(f"mean square of all: {np.mean(squares):.2f} ± {np.std(squares) / max(1, len(squares) - 1) ** 0.5:.2f}")


def recovered(folder: Path, options: argparse.Namespace, seed: int) -> tuple[str, np.ndarray]:
    """A row of the table, and deviations in error bars of the numbers that are determined."""
    random = np.random.default_rng(seed)
    truth = (DATA / "ethanol.xml").read_text().replace("</ForceField>", SPRING)
    (folder / "truth.xml").write_text(truth)
    for temperature in ("300K", "500K"):
        written(folder / temperature, temperature, folder / "truth.xml", options, random)
    given = {
        "model": {"type": "xml", "files": ["start.xml"], "topology": str(DATA / "ethanol.pdb")},
        "parameters": {"rules": RULES, "ties": [{"type": "residue_charge"}]},
        "loss": {"energy": options.noise[0], "force": options.noise[1]},
        "training": {"training_data": {"systems": ["300K", "500K"]}, "numb_steps": 100},
    }
    (folder / "input.json").write_text(json.dumps(given))
    perturb(folder, options.off, random)
    command = [sys.executable, "-c", "from diffff.cli import main; main()", "train", "input.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    record = read_record(folder)
    wanted = numbers_of(folder / "truth.xml")
    sure = [one for one in record["numbers"] if one["error"] is not None]
    off = np.array([(one["value"] - wanted[one["array"]][one["index"][0]]) / one["error"] for one in sure])
    within = ", ".join(f"{np.mean(np.abs(off) < n):.0%}" for n in (1, 2, 3))
    loose = ", ".join(one["label"] for one in record["numbers"] if one["error"] is None)
    objective = record["objective"]
    row = f"| {seed} | {objective['start']:.0f} -> {objective['end']:.0f} | {objective['steps']} | {len(sure)} | "
    return f"{row}{within} | {np.mean(off**2):.2f} | {loose} |", off


def written(
    folder: Path, temperature: str, xml: Path, options: argparse.Namespace, random: np.random.Generator
) -> None:
    """A data set of OpenMM's energies and forces with noise."""
    source = DATA / "train" / temperature
    topology = app.PDBFile(str(DATA / "ethanol.pdb")).topology
    system = app.ForceField(str(xml)).createSystem(topology)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    coord = np.concatenate([np.load(part / "coord.npy") for part in sorted(source.glob("set.*"))])[: options.frames]
    energies, forces = [], []
    for x in coord.reshape(len(coord), -1, 3) * units.NM_PER_ANGSTROM:
        context.setPositions(x)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value.ravel())
    energy = np.array(energies) + options.noise[0] * random.normal(size=len(energies))
    force = np.array(forces) + options.noise[1] * random.normal(size=np.shape(forces))
    (folder / "set.000").mkdir(parents=True)
    for name in ("type.raw", "type_map.raw", "nopbc"):
        (folder / name).write_bytes((source / name).read_bytes())
    np.save(folder / "set.000" / "coord.npy", coord)
    np.save(folder / "set.000" / "energy.npy", energy / units.KJ_PER_MOL_PER_EV)
    np.save(folder / "set.000" / "force.npy", force / units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM)


def numbers_of(xml: Path) -> dict[str, np.ndarray]:
    """All numbers of a file by array."""
    from diffff import ForceField

    return {
        f"{group}/{column}": np.asarray(values)
        for group, columns in ForceField(xml).params().items()
        for column, values in columns.items()
    }


def perturb(folder: Path, off: float, random: np.random.Generator) -> None:
    """Write start.xml, truth.xml with numbers that are off; the residue stays neutral."""
    from diffff import ForceField

    field = ForceField(folder / "truth.xml")
    params = field.params()
    for columns in params.values():
        for column, values in columns.items():
            if not column.endswith("14scale"):
                columns[column] = values * (1.0 + off * random.uniform(-1.0, 1.0, size=values.shape))
    charge = np.array(params["NonbondedForce"]["charge"])
    types = [place.element.attributes["type"] for place in field.rows["NonbondedForce/charge"]]
    total = charge @ np.array([{"HC": 3, "H1": 2}.get(name, 1) for name in types])
    charge[types.index("C2")] -= total
    params["NonbondedForce"]["charge"] = charge
    for name in ("sigma", "epsilon"):
        values = np.array(params["NonbondedForce"][name])
        row = [place.element.attributes["type"] for place in field.rows[f"NonbondedForce/{name}"]].index("HO")
        values[row] = np.asarray(field.params()["NonbondedForce"][name])[row]
        params["NonbondedForce"][name] = values
    params["CustomBondForce"]["r2"] = field.params()["CustomBondForce"]["r2"]
    (written_file,) = field.write(folder / "off", params)
    (folder / "start.xml").write_text(written_file.read_text())


if __name__ == "__main__":
    main()
