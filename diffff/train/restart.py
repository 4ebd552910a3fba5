"""What makes a restart another run than that of the checkpoint."""

from typing import Any

from diffff.train.config import Input


def input_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys in which two completed inputs differ, with both values."""
    old, new = flat(before, "input"), flat(now, "input")
    return [
        f"{key.removeprefix('input.')} was {old.get(key)} and is {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def device_changes(n_before: int | None, before: dict[str, Any], n_now: int, now: Input) -> str | None:
    """What another number of devices makes of batches and learning rate; None: both stay.

    Args:
        n_before: number of devices of the checkpoint; None: it does not say.
        before: its completed input.
        n_now: number of devices now.
        now: the input.
    """
    if n_before is None or n_before == n_now:
        return None
    rate = now.learning_rate
    old_rate = rate.model_copy(update={"scale_by_worker": before["learning_rate"]["scale_by_worker"]})
    factors = old_rate.worker_factor(n_before), rate.worker_factor(n_now)
    sizes = before["training"]["training_data"]["batch_size"], now.training.training_data.batch_size
    batches = [
        n * size if isinstance(size, int) else f"{n} times {size}"
        for n, size in zip((n_before, n_now), sizes, strict=True)
    ]
    parts = [
        f"{what} {old} and is {new}"
        for what, old, new in (
            ("the batch size over all of them was", *batches),
            ("the factor of the learning rate was", *(f"{factor:g}" for factor in factors)),
        )
        if old != new
    ]
    return f"{n_before} before, {n_now} now: {'; '.join(parts)}" if parts else None


def flat(section: Any, path: str = "model") -> dict[str, Any]:
    """The values of a completed section by the path of their key."""
    if not isinstance(section, dict):
        return {path: "float64" if path.endswith("precision") and section == "default" else section}
    return {key: value for name, part in section.items() for key, value in flat(part, f"{path}.{name}").items()}
