"""The built-in model: an OpenSci decoder of about a million parameters, and its training.

`model/` is a model folder as the published ones are. Its Python files are data: they are loaded from there and from
copies, and never imported by this package. `trained.json` says what its weights were made of, and on what.
"""

from pathlib import Path

from opensci_lib.miniature.corpus import prose

#: The folder of the trained model.
MODEL = Path(__file__).parent / "model"

#: A question that the model can answer, and a passage of some hundred tokens that it can follow and go on from.
PROMPTS = ["The capital of France is", "\n\n".join(prose()[:3]) + "\n\nThe inn belongs to"]
