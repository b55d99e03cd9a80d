import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "check-model-inputs"
DECORATOR = """
try:  # 5.2 and later have two in its place
    from transformers.utils.generic import merge_with_config_defaults
    from transformers.utils.output_capturing import capture_outputs
except ImportError:
    from transformers.utils.generic import check_model_inputs
else:

    def check_model_inputs(function=None, **options):
        if function is None:
            return lambda function: check_model_inputs(function, **options)
        return merge_with_config_defaults(capture_outputs(function, **options))
"""
RECORDER = """
try:  # 5.2 and later
    from transformers.utils.output_capturing import OutputRecorder
except ImportError:
    from transformers.utils.generic import OutputRecorder
"""


def test_alone_on_its_line():
    check_transformed(
        RULE,
        "import torch\nfrom transformers.utils.generic import check_model_inputs\nx = 1\n",
        f"import torch\n{DECORATOR}x = 1\n",
    )


def test_both_among_others():
    check_transformed(
        RULE,
        "from transformers.utils.generic import (\n    OutputRecorder,\n    can_return_tuple,\n"
        "    check_model_inputs,\n)\n",
        f"from transformers.utils.generic import can_return_tuple\n{RECORDER}{DECORATOR}",
    )


@pytest.mark.parametrize(
    "source",
    [
        "from transformers.utils.generic import can_return_tuple\n",
        "from .generic import check_model_inputs\n",
        "from transformers.utils.output_capturing import OutputRecorder, capture_outputs\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import torch\nfrom transformers.utils.generic import check_model_inputs as check\n", 2),
        ("def f():\n    from transformers.utils.generic import OutputRecorder\n", 2),
    ],
)
def test_another_form_is_refused(source, line):
    check_unrecognised(RULE, source, line)
