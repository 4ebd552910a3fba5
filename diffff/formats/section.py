"""One section of a model file, with its place: what is wrong in it is reported with file and path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffff.errors import InputError


@dataclass(frozen=True)
class Section:
    """A dict of a serialised model.

    Attributes:
        file: Name of the file.
        path: Where in the file, "$.model.descriptor".
        data: The dict.
    """

    file: str
    path: str
    data: Mapping[str, Any]

    def error(self, key: str, sentence: str) -> InputError:
        """The error to raise for a key of this section; without a key, for the section itself."""
        return InputError(f"{self.file}: {self.path}{'.' if key else ''}{key}: {sentence}")

    def need(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self.data:
            raise self.error(key, "missing; the file is incomplete")
        return self.data[key]

    def at(self, key: str) -> "Section":
        """The section below a key."""
        value = self.need(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a section, not {type(value).__name__}")
        return Section(file=self.file, path=f"{self.path}.{key}", data=value)

    def values(self, key: str) -> list[Any]:
        """The list of a key; empty when it is absent or null."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(key, f"must be a list, not {type(value).__name__}")
        return value or []

    def sections(self, key: str) -> list["Section | None"]:
        """The sections in the list of a key; None where the list has null."""
        value = self.values(key)
        if not all(item is None or isinstance(item, dict) for item in value):
            raise self.error(key, "must be a list of sections")
        places = [f"{self.path}.{key}[{i}]" for i in range(len(value))]
        pairs = zip(places, value, strict=True)
        return [None if v is None else Section(file=self.file, path=place, data=v) for place, v in pairs]

    def array(self, key: str, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
        """The array of a key below "@variables", with the number of elements of `shape`, brought into that shape."""
        array = self.at("@variables").need(key)
        if not isinstance(array, np.ndarray) or array.size != np.prod(shape, dtype=int):
            found = array.shape if isinstance(array, np.ndarray) else array
            raise self.error(f"@variables.{key}", f"shape {found}, but the settings of the model ask for {shape}")
        return array.reshape(shape).astype(dtype)

    def has_array(self, key: str) -> bool:
        """Whether there is an array of that name below "@variables"; older files lack some."""
        variables = self.data.get("@variables")
        return isinstance(variables, dict) and isinstance(variables.get(key), np.ndarray)

    def check_version(self, highest: int, lowest: int = 1) -> None:
        """Refuses a section of a later format, whose meaning is not known."""
        version = self.data.get("@version", 1)
        if not isinstance(version, int) or not lowest <= version <= highest:
            raise self.error(
                "@version",
                f"the version is {version}, but diffff reads {lowest} to {highest}; "
                "write the model with DeePMD-kit 3.2, or use a newer diffff",
            )

    def check_only(self, key: str, supported: str) -> None:
        """Refuses any other kind of model part than the supported one."""
        found = self.need(key)
        if found != supported:
            hint = "`dff show` and `dff convert` work on every model"
            raise self.error(key, f'"{found}" is not supported: diffff computes "{supported}". {hint}')

    def check_harmless(self, values: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuses settings that diffff lacks, unless they are off or absent: key -> the values that mean off."""
        for key, off in values.items():
            if key in self.data and self.data[key] not in off:
                raise self.error(key, f"{self.data[key]!r} is not supported by diffff; only {off[0]!r} is")
