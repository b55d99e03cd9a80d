import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "causal-mask"
BEFORE = """\
import torch

class Model(Base):
    def forward(self, x, mask, position_ids):
        return self._update_causal_mask(mask, x, position_ids, None, False)

    def _update_causal_mask(
        self, attention_mask, input_tensor, cache_position, past_key_values, output_attentions
    ):
        return self._prepare_4d_causal_attention_mask_with_cache_position(attention_mask)

    @staticmethod
    def _prepare_4d_causal_attention_mask_with_cache_position(attention_mask): ...
"""
AFTER = """\
import copy
import inspect

import torch

try:
    from transformers.masking_utils import create_causal_mask
except ImportError:  # until transformers 4.52 a model builds its mask itself
    create_causal_mask = None

class Model(Base):
    def forward(self, x, mask, position_ids):
        return self._update_causal_mask(mask, x, position_ids, None, False, position_ids)

    def _update_causal_mask(
        self, attention_mask, input_tensor, cache_position, past_key_values, output_attentions, position_ids=None
    ):
        if create_causal_mask is not None:
            config, implementation = self.config, self.config._attn_implementation
            if output_attentions and implementation == "sdpa":
                config = copy.copy(config)
                config._attn_implementation = "eager"  # on which the layers fall back
                if attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.dim() == 4:
                    lowest = torch.finfo(input_tensor.dtype).min  # eager attention adds the mask to the scores
                    attention_mask = torch.where(attention_mask, 0.0, lowest).to(input_tensor.dtype)
            # Between releases one of these changed its name and another went.
            inputs = {"input_embeds": input_tensor, "inputs_embeds": input_tensor, "cache_position": cache_position}
            known = inspect.signature(create_causal_mask).parameters
            inputs = {name: value for name, value in inputs.items() if name in known}
            inputs["position_ids"] = position_ids  # where those that were given start again, another sequence does
            return create_causal_mask(
                config=config, attention_mask=attention_mask, past_key_values=past_key_values, **inputs
            )
        return self._prepare_4d_causal_attention_mask_with_cache_position(attention_mask)

    @staticmethod
    def _prepare_4d_causal_attention_mask_with_cache_position(attention_mask): ...
"""


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


MADE_UP = "        if position_ids is None:\n            position_ids = made_up()\n"


def test_positions_that_the_model_makes_up_are_no_sign_of_packing():
    """4.53 to 4.57 would build a mask for them."""
    call = "        return self._update_causal_mask("
    after = AFTER.replace("False, position_ids)", "False, given_position_ids)")
    made = "        given_position_ids = position_ids\n" + MADE_UP
    check_transformed(RULE, BEFORE.replace(call, MADE_UP + call), after.replace(call, made + call))


def test_names_do_not_matter():
    check_transformed(RULE, BEFORE.replace("Model", "FooModel"), AFTER.replace("Model", "FooModel"))
    check_transformed(RULE, BEFORE.replace("input_tensor", "inputs_embeds"), _renamed(AFTER))


def _renamed(source: str) -> str:
    # the key that is spelled input_embeds in older releases stays
    return source.replace("input_tensor", "inputs_embeds")


def test_imports_that_are_there_are_not_repeated():
    before = BEFORE.replace("import torch\n", "import inspect\nimport torch\n")
    assert rewritten(RULE, before).count("import inspect\n") == 1


def test_imports_go_first_and_last():
    before = BEFORE.replace("import torch\n", '"""Doc."""\n\nimport torch\nfrom torch import nn\n')
    lines = rewritten(RULE, before).splitlines()
    expected = ["import copy", "import inspect", "", "import torch", "from torch import nn", "", "try:"]
    assert lines[2:9] == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import abc\nimport json\n", "import abc\nimport copy\nimport inspect\nimport json\n"),
        ("from typing import List\n", "import copy\nimport inspect\nfrom typing import List\n"),
        ("import abc\n", "import abc\nimport copy\nimport inspect\n"),
        ("import copy\nimport math\n", "import copy\nimport inspect\nimport math\n"),
        ("from __future__ import annotations\n\nimport math\n", None),
    ],
)
def test_modules_go_where_a_linter_sorts_them(before, after):
    after = after or "from __future__ import annotations\n\nimport copy\nimport inspect\nimport math\n"
    result = rewritten(RULE, BEFORE.replace("import torch\n", before + "\nimport torch\n"))
    assert result.startswith(after + "\nimport torch\n\ntry:\n")


def test_below_the_docstring():
    doc = '        """Build the mask."""\n'
    opening = "    ):\n"
    check_transformed(RULE, BEFORE.replace(opening, opening + doc), AFTER.replace(opening, opening + doc))


def test_a_call_by_name_stays_one():
    before, after = (text.replace("None, False", "None, output_attentions=False") for text in (BEFORE, AFTER))
    check_transformed(RULE, before, after.replace("False, position_ids)", "False, position_ids=position_ids)"))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nclass Model:\n    def forward(self): ...\n",
        "from transformers.masking_utils import create_causal_mask\n"
        "class Model:\n    def forward(self):\n        create_causal_mask()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_windows_line_ends_stay():
    check_transformed(RULE, BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("_update_causal_mask", "_make_mask", 13),
        ("past_key_values", "cache", 7),
        ("input_tensor", "x", 7),
        ("import torch", "import numpy", 7),
        ("import torch", "", 7),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)
