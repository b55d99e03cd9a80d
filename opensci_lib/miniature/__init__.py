"""The built-in model: an OpenSci decoder of about a million parameters, trained here within a minute.

`modeling_opensci.py` and `configuration_opensci.py` are data: they are copied into the model folder
and loaded from there, as the published models do it. They are never imported by this package.
"""

from opensci_lib.miniature.corpus import prose

#: A question that the model can answer, and a passage of some hundred tokens that it can follow and go on from.
PROMPTS = ["The capital of France is", "\n\n".join(prose()[:3]) + "\n\nThe inn belongs to"]
