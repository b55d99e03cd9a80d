import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "loss-kwargs"
TRY = """\
try:
    from transformers.utils import LossKwargs
except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54
    from transformers.utils import TransformersKwargs as LossKwargs
"""
CLASS = "class Kwargs(LossKwargs): ...\n"


@pytest.mark.parametrize(
    "source",
    [
        "from transformers.utils import logging\n",
        "from transformers import PreTrainedModel\nimport transformers.utils as tu\ntu.logging.get_logger()\n",
        "from elsewhere import LossKwargs\n",
        "class LossKwargs: ...\nclass Kwargs(LossKwargs): ...\n",
        "# from transformers.utils import LossKwargs\n'LossKwargs'\n",
        "self.LossKwargs = 1\n",
        "from .utils import LossKwargs\nfrom transformers.elsewhere import LossKwargs\n",
        TRY,
        "try:\n    from transformers.utils import TransformersKwargs\n"
        "except ImportError:\n    from transformers.utils import LossKwargs as TransformersKwargs\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_the_only_import_of_its_line():
    check_transformed(
        RULE, f"# licence\nfrom transformers.utils import LossKwargs\n{CLASS}", f"# licence\n{TRY}{CLASS}"
    )


@pytest.mark.parametrize("home", ["transformers.utils", "transformers.utils.generic"])
def test_both_of_its_homes(home):
    check_transformed(RULE, f"from {home} import LossKwargs\n", TRY)
    check_transformed(
        RULE, f"import {home} as home\nhome.LossKwargs\n", f"import {home} as home\n\n{TRY}LossKwargs\n"
    )
    check_unrecognised(RULE, f"from {home} import *\n", 1)


def test_one_import_among_others():
    check_transformed(
        RULE,
        "from transformers.utils import (\n    LossKwargs,  # typing\n    logging,\n)\n",
        f"from transformers.utils import (\n    logging,\n)\n\n{TRY}",
    )


def test_the_last_import_of_several():
    check_transformed(
        RULE,
        "from transformers.utils import logging, LossKwargs\n",
        f"from transformers.utils import logging\n\n{TRY}",
    )


def test_the_newer_name_on_older_releases():
    check_transformed(
        RULE,
        "from transformers.utils import TransformersKwargs\n",
        "try:\n"
        "    from transformers.utils import TransformersKwargs\n"
        "except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54\n"
        "    from transformers.utils import LossKwargs as TransformersKwargs\n",
    )


def test_an_alias_is_kept():
    check_transformed(
        RULE,
        "from transformers.utils import LossKwargs as Loss\nclass Kwargs(Loss): ...\n",
        "try:\n"
        "    from transformers.utils import LossKwargs as Loss\n"
        "except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54\n"
        "    from transformers.utils import TransformersKwargs as Loss\n"
        "class Kwargs(Loss): ...\n",
    )


@pytest.mark.parametrize(
    ("imported", "used"),
    [
        ("import transformers.utils as tu", "tu"),
        ("from transformers import utils", "utils"),
        ("import transformers", "transformers.utils"),
    ],
)
def test_as_an_attribute_of_a_module(imported, used):
    check_transformed(
        RULE,
        f"{imported}\nclass Kwargs({used}.LossKwargs): ...\n",
        f"{imported}\n\n{TRY}class Kwargs(LossKwargs): ...\n",
    )


def test_inside_a_function():
    indented = "".join(f"    {line}\n" for line in TRY.splitlines())
    check_transformed(
        RULE,
        "def kwargs():\n    from transformers.utils import LossKwargs\n    return LossKwargs\n",
        f"def kwargs():\n{indented}    return LossKwargs\n",
    )


def test_windows_line_ends_stay():
    check_transformed(
        RULE,
        "from transformers.utils import LossKwargs, logging\r\n",
        f"from transformers.utils import logging\n\n{TRY}".replace("\n", "\r\n"),
    )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import torch\nfrom transformers.utils import *\n", 2),
        ("x = 1; from transformers.utils import LossKwargs\n", 1),
        ("\ntry:\n    from transformers.utils import LossKwargs\nexcept ImportError:\n    LossKwargs = dict\n", 3),
        ("import transformers.utils as tu\ntu.LossKwargs\ntu.TransformersKwargs\n", 3),
    ],
)
def test_named_with_its_line(source, line):
    check_unrecognised(RULE, source, line)
