"""Writes what DeePMD-kit makes of the inputs here, and the list of all keys it knows.

Run it with a Python that has DeePMD-kit 3.2: `python tests/references/inputs/make.py`. It writes

    keys.json                the keys of each section with aliases and default, and the types of each variant section
    completed/<name>.json    each input as DeePMD-kit upgrades it and fills in its defaults
"""

import json
import warnings
from pathlib import Path

from deepmd.utils.argcheck import gen_json, normalize
from deepmd.utils.compat import update_deepmd_input

HERE = Path(__file__).parent
SECTIONS = {"standard", "se_e2_a", "ener", "exp", "cosine", "wsd", "Adam", "AdamW"}  # variants whose keys are listed
REFUSED_WHOLE = {"type_embedding", "modifier", "compress", "spin", "nvnmd", "mixed_precision"}


def keys_of(argument, path, keys, types):
    """Add the keys below a section of the schema; a variant's own keys stand under "section[type]"."""
    if argument["name"] in REFUSED_WHOLE:
        return
    for name, field in argument["sub_fields"].items():
        entry = {"aliases": field["alias"]} | ({"default": field["default"]} if "default" in field else {})
        keys.setdefault(path, {})[name] = entry
        keys_of(field, f"{path}.{name}", keys, types)
    for variant in argument["sub_variants"].values():
        types[path] = {name: choice["alias"] for name, choice in variant["choice_dict"].items()}
        for name, choice in variant["choice_dict"].items():
            if name in SECTIONS:
                keys_of(choice | {"name": name}, f"{path}[{name}]", keys, types)


def main():
    keys, types = {"$": {}}, {}
    for argument in json.loads(gen_json()):
        keys["$"][argument["name"]] = {"aliases": argument["alias"]}
        keys_of(argument, f"$.{argument['name']}", keys, types)
    text = json.dumps({"keys": keys, "types": types}, indent=1)
    (HERE / "keys.json").write_text(text + "\n")

    (HERE / "completed").mkdir(exist_ok=True)
    for path in sorted(HERE.glob("*.json")):
        if path.name == "keys.json":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            completed = normalize(update_deepmd_input(json.loads(path.read_text())))
        (HERE / "completed" / path.name).write_text(json.dumps(completed, indent=1) + "\n")


if __name__ == "__main__":
    main()
