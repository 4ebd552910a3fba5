"""`dff train`: what an input file asks for, the training of a network or the fit of a force field."""

import os
from pathlib import Path
from typing import Any

from diffff.errors import InputError
from diffff.input_file import load
from diffff.train.launch import ranks


def start(
    input: str | Path,
    *,
    init_model: Path | None = None,
    restart: Path | None = None,
    finetune: Path | None = None,
    output: Path = Path("out.json"),
    skip_neighbor_stat: bool = False,
) -> None:
    """Train what the section `model` of an input file describes; see `train.loop.train` and `train.fit_run.fit`.

    Raises:
        InputError: see there; or an option that is for networks, with a force field alone.
    """
    input = Path(input)
    given = load(input)
    network = has_network(given)
    if _is_deterministic(given):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()  # read when a GPU is first used
    with ranks() as launch:
        if network:
            from diffff.train.loop import train

            train(
                input,
                init_model=init_model,
                restart=restart,
                finetune=finetune,
                output=output,
                skip_neighbor_stat=skip_neighbor_stat,
            )
            return
        if finetune is not None or skip_neighbor_stat:
            option = "--finetune" if finetune is not None else "--skip-neighbor-stat"
            raise InputError(
                f"{option} is for networks, but the model of {input} is a force field alone. Leave it away."
            )
        if launch.n_ranks > 1:
            raise InputError(
                f"{input}: the fit of a force field alone runs in one process, but {launch.n_ranks} were started. "
                "Start one."
            )
        from diffff.train.fit_run import fit

        fit(input, init_model=init_model, restart=restart, output=output)


def _is_deterministic(data: Any) -> bool:
    training = data.get("training") if isinstance(data, dict) else None
    return isinstance(training, dict) and training.get("deterministic") is True


def has_network(data: Any) -> bool:
    """Whether the model of an input, as read from its file, has a network to train.

    Example:
        >>> has_network({"model": {"type": "sum", "models": [{"type": "xml"}, {"type": "deep"}]}})
        False
    """
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict):
        return True
    if model.get("type") in ("sum", "linear_ener"):
        parts = model.get("models")
        known = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
        return not known or any(part.get("type", "standard") == "standard" for part in parts or ())
    return model.get("type") != "xml"
