"""What sizes, such as sigmas and scales, may be: within what double precision can compare and square."""

from typing import Annotated

from pydantic import Field

Size = Annotated[float, Field(ge=1e-12, le=1e12)]
"""A positive number, neither so small nor so large that its square beside others is lost to rounding."""
