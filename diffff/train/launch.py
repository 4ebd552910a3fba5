"""The ranks of a run: one process, or several that `mpiexec`, `mpirun` or `srun` has started together.

Either all ranks work together, or none works: what a launcher has started as several processes never goes on as
several runs of one process, and where one rank fails all stop.
"""

import importlib.util
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import jax

from diffff.errors import InputError
from diffff.train.own_devices import overview, own_devices, visible_gpus

logger = logging.getLogger(__name__)

_MEET = 30  # seconds in which all ranks have to be there
_CONNECT = 60  # seconds after which JAX ends the process itself, with a dump of its stack
_SILENT = 30  # seconds after which a rank that gives no sign counts as lost
_PASSED_ON = 1  # seconds in which a launcher passes on what was printed: what is left at the abort, it drops
_FIRST_SPEAKS = 3  # seconds for which the others keep still: an error of all ranks is to be told once
_OF_OTHERS = ("Gloo", "NCCL", "coordination", "UNAVAILABLE")  # what messages about lost connections speak of
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # Open MPI; MPICH and Intel MPI; MVAPICH


@dataclass(frozen=True)
class Launch:
    """Who started this process, together with how many others.

    Attributes:
        n_ranks: number of processes.
        by: how they find each other.
    """

    n_ranks: int
    by: Literal["mpi4py", "slurm"] | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Launch":
        """What the variables of a launcher say.

        Raises:
            InputError: MPI has started several processes, but mpi4py is not there.
        """
        by_mpi = max((int(environment[name]) for name in _SIZES if environment.get(name, "").isdecimal()), default=1)
        steps = environment.get("SLURM_STEP_NUM_TASKS", "")
        by_slurm = int(steps) if steps.isdecimal() else 1
        if by_mpi > 1 and importlib.util.find_spec("mpi4py") is not None:
            return cls(by_mpi, "mpi4py")
        if by_slurm > 1 and by_mpi in (1, by_slurm):
            return cls(by_slurm, "slurm")
        if by_mpi > 1:
            raise InputError(
                f"MPI has started {by_mpi} processes, but mpi4py, by which they find each other, is not installed. "
                "Install it, for instance with an MPI of its own: pip install 'diffff[mpi]'. Or start one process."
            )
        return cls(1, None)


@contextmanager
def ranks() -> Iterator[Launch]:
    """Bring the ranks together, and let all of them stop where one fails.

    Raises:
        InputError: they do not find each other.
    """
    try:
        launch = Launch.of(os.environ)
    except InputError:
        if _rank_of(os.environ):
            raise SystemExit(1) from None  # rank 0 tells it
        raise
    if launch.n_ranks == 1:
        yield launch
        return
    try:
        _connect(launch)
        yield launch
    except Exception as error:
        _stop_all(launch, error)
    else:
        jax.distributed.shutdown()


def _connect(launch: Launch) -> None:
    own = own_devices(os.environ, _seen_by_others(launch) if launch.by == "mpi4py" else ())
    late = threading.Timer(_MEET, _stop_all, [launch, _not_met(launch, f"within {_MEET} s")])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            local_device_ids=own,
            cluster_detection_method=launch.by,
            initialization_timeout=_CONNECT,
            heartbeat_timeout_seconds=_SILENT,
            shutdown_timeout_seconds=_CONNECT,
        )
        late.cancel()
        devices = [(device.process_index, device.device_kind) for device in jax.devices()]
    except (RuntimeError, ValueError) as error:
        raise _not_met(launch, f"({_first_line(error)})") from None
    finally:
        late.cancel()
    if without := set(range(launch.n_ranks)) - {rank for rank, _ in devices}:
        raise InputError(
            f"ranks {', '.join(map(str, sorted(without)))} have no {devices[0][1]} as the others. All need devices of "
            "one kind (JAX_PLATFORMS, CUDA_VISIBLE_DEVICES)."
        )
    if jax.process_index():
        logging.getLogger("diffff").setLevel(logging.ERROR)  # the first rank speaks
    logger.info("%s", overview(devices))


def _not_met(launch: Launch, how: str) -> InputError:
    return InputError(
        f"the {launch.n_ranks} ranks did not find each other {how}. Can the nodes reach each other over the network, "
        "and was the same program started on all?"
    )


def _seen_by_others(launch: Launch) -> list[tuple[str, ...] | None]:
    """The GPUs that the other ranks on this host see.

    Raises:
        InputError: mpi4py does not work, or is for another MPI than that of the launcher.
    """
    try:
        from mpi4py import MPI  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:
        raise InputError(f"mpi4py is installed but does not work: {error}. Install it anew for your MPI.") from None
    world = MPI.COMM_WORLD
    if (found := world.Get_size()) != launch.n_ranks:
        raise InputError(
            f"{launch.n_ranks} processes were started, but the MPI of mpi4py sees {found}: it is another MPI than "
            "that of the launcher. Start with the mpiexec beside this Python, or build mpi4py with your MPI: "
            "pip install --no-binary mpi4py mpi4py."
        )
    words = world.allgather((socket.gethostname(), visible_gpus(os.environ)))
    host = words[world.Get_rank()][0]
    return [seen for k, (where, seen) in enumerate(words) if where == host and k != world.Get_rank()]


def _stop_all(launch: Launch, error: Exception) -> None:
    """Tell the error, and end the processes of all ranks."""
    rank = _rank_of(os.environ)
    if rank:
        time.sleep(_FIRST_SPEAKS)
    if isinstance(error, InputError):
        text = f"Error: {error}"
    elif isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in _OF_OTHERS):
        text = f"Error: a rank was lost ({_first_line(error)}). All stop; go on with --restart."
    else:
        text = "".join(traceback.format_exception(error))
    print(text if not rank else f"rank {rank}: {text}", file=sys.stderr, flush=True)
    if launch.by == "mpi4py" and "mpi4py.MPI" in sys.modules:
        time.sleep(_PASSED_ON)
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(1)
    os._exit(1)  # an orderly end would wait for the others


def _rank_of(environment: Mapping[str, str]) -> int:
    names = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), 0)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
