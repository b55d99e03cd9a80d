import re

import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "inner-imports"
TRY = "try:  # the package is needed here alone, not to load the model\n"


@pytest.mark.parametrize("line", ["from rare.main import A, B", "import rare", "import os, rare as r"])
def test_an_import_in_a_function(line):
    before = f"class Model:\n    def chat(self):\n        if self.streams:\n            {line}\n        return 1\n"
    tried = f"            {TRY}                {line}\n            except ImportError:\n                raise\n"
    check_transformed(RULE, before, before.replace(f"            {line}\n", tried))
    # transformers finds imports by lines, once blocks such as this one are cut out (4.48 to 5.23)
    left = re.sub(r"\s*try\s*:.*?except.*?:", "", tried, flags=re.DOTALL)
    assert "rare" not in left


@pytest.mark.parametrize(
    "source",
    [
        "import rare\n",
        "def f():\n    import math\n    from torch import nn\n    from transformers.utils import logging\n",
        "def f():\n    from .quantizer import quantize\n    from . import parts\n",
        "def f():\n    try:\n        import rare\n    except ImportError:\n        rare = None\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
