"""A run of OpenMM that is killed and continued is, byte for byte, the one that was not."""

import struct

import numpy as np
import openmm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.md.openmm_resume import resume

N, EVERY, CHECKPOINT = 12, 5, 20
HEADER, PER_FRAME = 276, 56 + 3 * (8 + 4 * N)


def simulation_of(time_step=0.002):
    """Six pairs on springs, in a periodic box through which they go."""
    topology = app.Topology()
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in 2.0 * np.eye(3)] * unit.nanometer)
    chain, system, bonds = topology.addChain(), openmm.System(), openmm.HarmonicBondForce()
    for k in range(N):
        topology.addAtom("AR", app.Element.getBySymbol("Ar"), topology.addResidue("AR", chain))
        system.addParticle(4.0)
        if k % 2:
            bonds.addBond(k - 1, k, 0.1, 1e4)
    bonds.setUsesPeriodicBoundaryConditions(True)
    system.addForce(bonds)
    system.setDefaultPeriodicBoxVectors(*(2.0 * np.eye(3)))
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, time_step)
    integrator.setRandomNumberSeed(3)
    made = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
    made.context.setPositions(2.0 * np.random.default_rng(1).uniform(size=(N, 3)))
    made.context.setVelocitiesToTemperature(300.0, 5)
    return made


def report(made, folder, append=False, step=True):
    made.reporters += [
        app.DCDReporter(str(folder / "md.dcd"), EVERY, append=append),
        app.StateDataReporter(
            *(str(folder / "md.csv"), EVERY), step=step, time=True, totalEnergy=True, temperature=True, append=append
        ),
        app.CheckpointReporter(str(folder / "md.chk"), CHECKPOINT),
    ]


def files_of(folder):
    return {"trajectory": folder / "md.dcd", "log": folder / "md.csv"}


def run(folder, n_steps, before=0):
    folder.mkdir()
    made = simulation_of()
    made.step(before)
    report(made, folder)
    made.step(n_steps - before)
    return made


def contents(folder):
    """Without the date in the header of the DCD file."""
    dcd = (folder / "md.dcd").read_bytes()
    return dcd[:180], dcd[260:], (folder / "md.csv").read_text()


@pytest.mark.parametrize("before", [0, 7])
def test_a_run_that_was_killed_goes_on_without_gap_or_duplicate(tmp_path, before):
    run(tmp_path / "whole", 100, before)
    run(tmp_path / "parts", 58, before)
    with (tmp_path / "parts/md.dcd").open("ab") as file:
        file.write(struct.pack("<i", 48) + b"half a frame")
    with (tmp_path / "parts/md.csv").open("a") as file:
        file.write("60,0.1")
    made = simulation_of()
    assert resume(made, tmp_path / "parts/md.chk", begun=before, **files_of(tmp_path / "parts")) == 40
    assert (tmp_path / "parts/md.dcd").stat().st_size == HEADER + (8 - (before > EVERY)) * PER_FRAME
    report(made, tmp_path / "parts", append=True)
    made.step(100 - made.currentStep)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    again = simulation_of()  # at a checkpoint, nothing is to be cut
    assert resume(again, tmp_path / "parts/md.chk", begun=before, **files_of(tmp_path / "parts")) == 100
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_files_with_a_gap_or_of_another_run_are_refused(tmp_path):
    folder = tmp_path / "run"
    run(folder, 50)
    checkpoint, dcd, log = folder / "md.chk", folder / "md.dcd", folder / "md.csv"
    frames, lines = dcd.read_bytes(), log.read_text().splitlines(keepends=True)

    def refused(match, begun=0, **options):
        with pytest.raises(InputError, match=match):
            resume(simulation_of(), checkpoint, begun=begun, **options)
        dcd.write_bytes(frames)
        log.write_text("".join(lines))

    refused("other positions than the checkpoint", begun=7, trajectory=dcd)
    refused("begun is 41; give a step from 0 to 40", begun=41)
    dcd.write_bytes(frames[: HEADER + 7 * PER_FRAME])
    refused("it has 7 of the 8 frames from step 0 to 40", trajectory=dcd)
    dcd.write_bytes(b"nothing")
    refused("not the header of a DCD file of OpenMM", trajectory=dcd)
    log.write_text("".join(lines[:4] + lines[5:]))
    refused("between the steps 0 and 40 lines are missing, or there twice", log=log)
    log.write_text("".join(lines[:7]))
    refused("between the steps 0 and 40 lines are missing", log=log)
    log.write_text("".join(lines[:4] + lines[3:]))
    refused("between the steps 0 and 40 lines are missing, or there twice", log=log)
    log.write_text("".join(lines[1:]))
    refused("does not name a column Step", log=log)
    refused("there is no such file", trajectory=folder / "other.dcd")
    (folder / "md.xtc").write_bytes(b"")
    refused("only DCD files can be continued", trajectory=folder / "md.xtc")
    checkpoint.write_bytes(b"nothing")
    refused("the checkpoint does not fit this simulation")


def test_a_trajectory_of_another_time_step_is_refused(tmp_path):
    run(tmp_path / "run", 40)
    with pytest.raises(InputError, match=r"its steps are not of 0\.003 ps"):
        resume(simulation_of(0.003), tmp_path / "run/md.chk", trajectory=tmp_path / "run/md.dcd")
