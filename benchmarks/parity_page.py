"""Makes docs/parity.md: every force-field file that ships with OpenMM and openmmforcefields, beside OpenMM.

    python -m benchmarks.parity_page results [--openmmforcefields DIRECTORY] [--only REGEX] [--limit 1200]

Each file is compared in a process of its own, and what was found is kept in a JSON file in the directory `results`: a
second call goes on where the first was stopped, and writes the page again. DIRECTORY is `openmmforcefields/ffxml` of
the package; by default that of the one that is installed, if there is one.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.parity_cases import Comparison, companions

ROOT = Path(__file__).resolve().parents[1]
NO_FORCE_FIELD = ("hydrogens", "glycam-hydrogens", "pdbNames", "residues")


def packages(openmmforcefields: Path | None) -> dict[str, Path]:
    """Directories of the force-field files by package."""
    import openmm.app

    found = {"openmm": Path(openmm.app.__file__).parent / "data"}
    if openmmforcefields is None:
        spec = importlib.util.find_spec("openmmforcefields")
        if spec and spec.origin:
            openmmforcefields = Path(spec.origin).parent / "ffxml"
    return found | ({"openmmforcefields": openmmforcefields.resolve()} if openmmforcefields else {})


def files_in(folder: Path) -> list[str]:
    """The force-field files below a directory."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*.xml")]
    return sorted((f for f in found if Path(f).stem not in NO_FORCE_FIELD), key=str.lower)


def compare(folder: Path, file: str, save: Path, limit: float, atoms: int) -> None:
    """Compare one file in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.parity_page", str(save), "--folder", str(folder), "--file", file]
    command += ["--atoms", str(atoms)]
    programs = {  # many files lead to the same programs
        "JAX_COMPILATION_CACHE_DIR": str(save.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "OPENBLAS_NUM_THREADS": "1",  # the arrays of a layout are small
    }
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=limit, capture_output=True, text=True, env=os.environ | programs
        )
        trouble = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        stopped = []
    except subprocess.TimeoutExpired:
        trouble, stopped = [], [f"stopped after {limit:.0f} s"]
    if trouble or stopped:
        found = json.loads(save.read_text()) if save.exists() else {"file": file, "with": companions(file), "cases": []}
        found.setdefault("errors", []).extend(trouble)
        found.setdefault("remarks", []).extend(stopped)
        save.write_text(json.dumps(found | {"done": True}, indent=1))
    print(f"{file}: {summary(json.loads(save.read_text()))[0]} ({time.monotonic() - start:.0f} s)", flush=True)


def worst(found: dict[str, Any]) -> tuple[float, float, float]:
    """Largest errors of energies, forces and slopes in all cases."""
    lines = [pair for case in found["cases"] for pair in case.get("forces", {}).values()]
    slopes = [error for case in found["cases"] for error in case.get("rows", {}).values()]
    return (
        *(max((pair[k] for pair in lines), default=float("nan")) for k in (0, 1)),
        max(slopes, default=float("nan")),
    )


def summary(found: dict[str, Any]) -> tuple[str, str]:
    """Verdict and remark."""
    if "unsupported" in found:
        reasons = found["unsupported"].splitlines()
        tags = dict.fromkeys(tag for line in reasons for tag in re.findall(r"<(\w+)>", line))
        return "not supported", ", ".join(tags) or reasons[0][:160]
    cases, errors = found["cases"], list(found.get("errors", []))
    for case in cases:
        where = case.get("template") or f"{case['name']} ({case['method']})"
        if "error" in case:
            errors.append(f"{where}: {case['error'].splitlines()[0][:160]}")
        elif not case["agrees"]:
            errors.append(f"{where} differs")
    remarks = list(found.get("remarks", []))
    if missing := [case["missing"].split(". Add")[0] for case in cases if "missing" in case]:
        remarks.append(f"some terms have no row and are left out as in OpenMM ({missing[0][:120]})")
    remarks += [f"{errors[0]}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")] if errors else []
    agree = [case for case in cases if case.get("agrees")]
    if not agree and not errors:
        return "OpenMM fails", "; ".join(remarks)
    verdict = "agrees" if agree and not errors else "differs" if agree else "fails"
    return verdict, "; ".join(remarks)


def page(results: dict[str, list[dict[str, Any]]]) -> str:
    """The text of docs/parity.md."""
    everything = [found for of_package in results.values() for found in of_package]
    versions = Counter(found["openmm"] for found in everything if "openmm" in found).most_common()
    verdicts = [summary(found)[0] for found in everything]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts)))
    parts = [
        "# Force-field files beside OpenMM",
        "",
        "Every XML file that ships with OpenMM and openmmforcefields, compared with OpenMM (Reference platform, double "
        "precision) by `python -m benchmarks.parity_page results`: a molecule for each residue template without "
        "cutoff, peptides, nucleic acids, lipids and sugars without cutoff, with a cutoff and with PME, and boxes of "
        "water, cubic and triclinic, with PME and reaction field. Errors are the largest found, by force: of an energy "
        "relative to it (of at least 1 kJ/mol), of a force component relative to the largest one. Slopes are "
        "derivatives with respect to numbers in the files, beside differences of edited files.",
        "",
        f"The OpenMM is {versions[0][0]} where no other is named. openmmforcefields 0.15.1 has a script in its CHARMM "
        "files that OpenMM since 8.5 cannot run.",
        "",
        "Larger errors than rounding have their cause in OpenMM: its CustomNonbondedForce integrates the long-range "
        "correction numerically (LennardJonesForce, to about 1e-7), its NonbondedForce loses digits of that correction "
        "where a switch is narrow.",
        "",
        f"{len(everything)} files: {counts}.",
        "",
        "Your own system: `dff parity --pdb system.pdb amber14-all.xml amber14/tip3p.xml --method PME --cutoff 0.9`.",
    ]
    for package, of_package in results.items():
        parts += ["", f"## {package}", ""]
        parts += [
            "| file | | templates | systems | energy | forces | slopes | remarks |",
            "|---|---|--:|--:|--:|--:|--:|---|",
        ]
        for found in of_package:
            verdict, remark = summary(found)
            if found.get("openmm", versions[0][0]) != versions[0][0]:
                remark = "; ".join(filter(None, [f"OpenMM {found['openmm']}", remark]))
            remark = re.sub(r"/\S*/([\w.-]+\.xml)", r"\1", remark.replace("|", "/"))
            n_templates = sum(
                c.get("templates", 0) for c in found["cases"] if c["name"] == "residues" and c.get("agrees")
            )
            systems = sum(c["name"] not in ("residues", "slopes") and bool(c.get("agrees")) for c in found["cases"])
            numbers = [f"{x:.0e}" if x == x else "" for x in worst(found)]
            extra = [Path(name).name for name in found["with"]]
            name = found["file"] + (f" (with {', '.join(extra)})" if extra else "")
            cells = [name, verdict, str(n_templates or ""), str(systems or ""), *numbers, remark]
            parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts) + "\n"


def kept(folder: Path, package: str, file: str) -> Path:
    """Where the results of a file stand."""
    return folder / f"{package}--{file.replace('/', '--')}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--openmmforcefields", type=Path)
    parser.add_argument("--only", default=".*", help="regular expression of files to compare (again)")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for each file")
    parser.add_argument("--atoms", type=int, default=6000, help="of residue templates of a file; beyond, a sample")
    parser.add_argument("--again", action="store_true", help="even those that were compared before")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file:
        worker(given.folder, given.file, given.results.resolve(), given.atoms)
        return
    given.results.mkdir(parents=True, exist_ok=True)
    known = packages(given.openmmforcefields)
    for package, folder in known.items():
        for file in files_in(folder):
            save = kept(given.results, package, file).resolve()
            old = json.loads(save.read_text()) if save.exists() else {}
            if re.search(given.only, f"{package}/{file}") and (given.again or not old.get("done")):
                compare(folder, file, save, given.limit, given.atoms)
    results = {
        package: [
            json.loads(path.read_text())
            for file in files_in(folder)
            if (path := kept(given.results, package, file)).exists()
        ]
        for package, folder in known.items()
    }
    (ROOT / "docs/parity.md").write_text(page(results))


def worker(folder: Path, file: str, save: Path, atoms: int) -> None:
    """Compare one file in this process."""
    import jax

    jax.config.update("jax_enable_x64", True)
    os.chdir(folder)
    save.unlink(missing_ok=True)
    Comparison(file, save, atoms).run()


if __name__ == "__main__":
    main()
