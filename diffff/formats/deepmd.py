"""The model files of DeePMD-kit, `.dp` and `.yaml`.

Two levels: the tree of a file, which every model of DeePMD-kit has, and the models that diffff computes.

    convert("model.dp", "model.yaml")             any model, bit for bit
    print(show("model.dp"))                       what is in a file
    model, params = load_model("model.dp")        an energy model made by DeePMD-kit or by diffff
    save_model("model.dp", model, params)         … and back, for DeePMD-kit 3.2 and the programs that use it
"""

from diffff.formats.deepmd_read import load_model
from diffff.formats.deepmd_write import save_model
from diffff.formats.model_file import convert, read_tree, write_tree
from diffff.formats.show import show

__all__ = ["load_model", "save_model", "read_tree", "write_tree", "convert", "show"]
