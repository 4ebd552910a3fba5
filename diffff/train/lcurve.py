"""The learning curve on disk, `lcurve.out`, in the form DeePMD-kit writes and its users' scripts read."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from diffff.errors import InputError
from diffff.files import replacing, writing

NAN_NOTE = "# If there is no available reference data, rmse_*_{val,trn} will print nan\n"


class LearningCurve:
    """A table that grows by one row at each displayed step and is complete on disk after each row.

    A row holds the step, for each quantity the validation and the training error (only the latter in a run
    without validation data), and the learning rate, if there is one. A run that continues at some step first drops
    the rows the interrupted run had written beyond it, so that the file ends up as that of an uninterrupted run.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "lcurve.out"
        >>> with LearningCurve(path, ["rmse_f"], validation=False) as curve:
        ...     curve.write(100, train={"rmse_f": 0.25}, lr=1e-3)
        >>> print(path.read_text().splitlines()[-1])
            100      2.50e-01    1.0e-03
    """

    def __init__(
        self,
        path: str | Path,
        names: Sequence[str],
        *,
        validation: bool,
        continue_from: int | None = None,
        has_rate: bool = True,
        decimals: int = 2,
    ) -> None:
        """Open the file: a new one, or the old one up to and including step `continue_from`.

        Args:
            path: Where the table stands; its directory is made when missing.
            names: The quantities in the order of their columns, for instance rmse, rmse_e, rmse_f.
            validation: Whether each quantity also has a `_val` column.
            continue_from: The step of the checkpoint a run continues from. A file that is not there is begun.
            has_rate: Whether there is a learning rate, the last column.
            decimals: Of the errors, behind their first digit.

        Raises:
            InputError: The file to continue has other columns, or cannot be written.
        """
        self.path = Path(path)
        self.names = tuple(names)
        self.validation = validation
        self._has_rate, self._decimals = has_rate, decimals
        is_new = continue_from is None or not self.path.exists()
        with writing(self.path):
            if continue_from is not None and not is_new:
                self._drop_rows_after(continue_from)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w" if is_new else "a", encoding="utf-8")
        if is_new:
            self._append(self._header())

    def write(
        self, step: int, *, train: Mapping[str, float], valid: Mapping[str, float] | None = None, lr: float | None
    ) -> None:
        """Add the row of one step.

        Args:
            step: The number of steps done.
            train: The errors on training frames by name; a name that is missing has no label and prints nan.
            valid: The same on validation frames, in a run with validation data.
            lr: The learning rate of the step; None in a table without one.
        """
        row = f"{step:7d}"
        for name in self.names:
            values = [] if not self.validation else [(valid or {}).get(name, np.nan)]
            form = f"{self._width}.{self._decimals}e"
            row += "  " + "".join(f" {value:{form}}" for value in [*values, train.get(name, np.nan)])
        rate = f"   {np.nan if lr is None else lr:8.1e}" if self._has_rate else ""
        self._append(f"{row}{rate}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, text: str) -> None:
        with writing(self.path):
            try:
                self._file.write(text)
                self._file.flush()
            except OSError:
                with suppress(OSError):  # it would try to write once more
                    self._file.close()
                raise

    def _header(self) -> str:
        kinds = ("val", "trn") if self.validation else ("trn",)
        columns = "".join(
            "  " + "".join(f" {f'{name}_{kind}':>{self._width}s}" for kind in kinds) for name in self.names
        )
        return f"# step {columns}{'   lr      ' if self._has_rate else ''}\n{NAN_NOTE}"

    @property
    def _width(self) -> int:
        return self._decimals + 9

    def _drop_rows_after(self, last: int) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A line without an end was cut off when the run was killed.
        lines = [line for line in lines if line.endswith("\n")]
        if not lines:
            lines = [self._header()]
        elif lines[0].split() != self._header().splitlines()[0].split():
            raise InputError(
                f"{self.path}: has the columns {' '.join(lines[0].split()[1:])}, while this run writes "
                f"{' '.join(self._header().splitlines()[0].split()[1:])}. Move the file away, or choose another "
                'name by "disp_file".'
            )
        try:
            kept = [line for line in lines if line.startswith("#") or int(line.split()[0]) <= last]
        except (ValueError, IndexError):
            raise InputError(
                f"{self.path}: a line does not begin with a step, so the run cannot append to it. Move it away."
            ) from None
        with replacing(self.path) as beside:
            beside.write_text("".join(kept), encoding="utf-8")


def read_lcurve(path: str | Path) -> dict[str, np.ndarray]:
    """Read the columns of a learning curve, also one written by DeePMD-kit.

    Returns:
        The columns by name, in their order: step, rmse_val, rmse_trn, …, lr if there is one; each of shape (n_rows,).

    Raises:
        InputError: The file is missing, or is no such table.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "lcurve.out"
        >>> with LearningCurve(path, ["rmse"], validation=False) as curve:
        ...     curve.write(1, train={"rmse": 0.5}, lr=1e-3)
        ...     curve.write(2, train={"rmse": 0.4}, lr=1e-3)
        >>> read_lcurve(path)["rmse_trn"].tolist()
        [0.5, 0.4]
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    names = lines[0].lstrip("#").split() if lines else []
    if not lines or not lines[0].startswith("#") or names[:1] != ["step"]:
        raise InputError(
            f'{path}: no learning curve: the first line should be "# step …" with the names of the columns'
        )
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#") or not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError as error:
            raise InputError(f"{path}: line {number}: {error}") from None
        if len(row) != len(names):
            raise InputError(f"{path}: line {number}: {len(row)} numbers under {len(names)} column names")
        rows.append(row)
    table = np.array(rows, dtype=float).reshape(-1, len(names))
    return dict(zip(names, table.T, strict=True))
