import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "lost-imports"
TORCH_FX = """
try:
    from transformers.utils.import_utils import is_torch_fx_available
except ImportError:  # some releases of transformers have none

    def is_torch_fx_available():
        return True
"""


def test_alone_on_its_line():
    check_transformed(
        RULE,
        "import torch\nfrom transformers.utils.import_utils import is_torch_fx_available\nx = 1\n",
        f"import torch\n{TORCH_FX}x = 1\n",
    )


def test_among_others():
    check_transformed(
        RULE,
        "from transformers.pytorch_utils import (\n    ALL_LAYERNORM_LAYERS,\n"
        "    is_torch_greater_or_equal_than_1_13,\n)\n",
        "from transformers.pytorch_utils import (\n    ALL_LAYERNORM_LAYERS,\n)\n"
        "\ntry:\n    from transformers.pytorch_utils import is_torch_greater_or_equal_than_1_13\n"
        "except ImportError:  # some releases of transformers have none\n"
        "    is_torch_greater_or_equal_than_1_13 = True\n",
    )


def test_beside_others_on_one_line():
    check_transformed(
        RULE,
        "from transformers.utils import (add_start_docstrings,\n"
        "                                is_flash_attn_greater_or_equal_2_10, logging)\n",
        "from transformers.utils import (add_start_docstrings,\n"
        "                                logging)\n"
        "\ntry:\n    from transformers.utils import is_flash_attn_greater_or_equal_2_10\n"
        "except ImportError:  # some releases of transformers have none\n\n"
        "    def is_flash_attn_greater_or_equal_2_10():\n        return True\n",
    )


@pytest.mark.parametrize(
    "source",
    [
        "from transformers.utils import logging\n",
        "from .own import is_torch_fx_available\n",
        "is_torch_fx_available()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_inside_a_block_is_refused():
    check_unrecognised(RULE, "def f():\n    from transformers.utils import is_torch_fx_available\n", 2)
