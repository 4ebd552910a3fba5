"""Refusal of JAX releases that compute wrong numbers."""

from importlib.metadata import PackageNotFoundError, version

from diffff.errors import InputError

# Their CPU compiler gives some programs wrong numbers without a word, crashes, or makes loops slower without bound;
# for one, https://github.com/jax-ml/jax/issues/39103. pyproject.toml keeps pip from choosing them.
BROKEN_RELEASES = ("0.9.0", "0.10.2", "0.11.0", "0.11.1")


def require_sound_jax() -> None:
    """Check the installed JAX before the first number is computed with it; it is not imported for that.

    Raises:
        InputError: JAX or jaxlib is missing, or is one of the releases known to miscompile.
    """
    for package in ("jax", "jaxlib"):
        try:
            installed = version(package)
        except PackageNotFoundError:
            raise InputError(f"{package} is not installed. Run: pip install diffff") from None
        if installed in BROKEN_RELEASES:
            raise InputError(
                f"{package} {installed} is installed, a release whose compiler is known to give wrong numbers or to "
                f"crash on the CPU (as are {', '.join(r for r in BROKEN_RELEASES if r != installed)}). "
                "Install another one: pip install --upgrade "
                + " ".join(f'"{name}>=0.10.1,{_exclusions()}"' for name in ("jax", "jaxlib"))
            )


def _exclusions() -> str:
    return ",".join(f"!={release}" for release in BROKEN_RELEASES)
