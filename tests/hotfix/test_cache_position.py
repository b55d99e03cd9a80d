import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "cache-position"
BEFORE = """\
from transformers import GenerationMixin, PreTrainedModel

class Model(PreTrainedModel):
    def forward(self, input_ids=None, cache_position=None, **kwargs):
        return self.layers(input_ids, cache_position)
"""
AFTER = """\
from transformers import GenerationMixin, PreTrainedModel

class Model(PreTrainedModel):
    def forward(self, input_ids=None, **kwargs):
        cache_position = kwargs.pop("cache_position", None)
        if not hasattr(GenerationMixin, "_get_initial_cache_position"):
            cache_position = None  # generate() does not move it along from transformers 5.4 on: a caller's may be old
        return self.layers(input_ids, cache_position)
"""


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


def test_whatever_the_keyword_arguments_are_called():
    before, after = (text.replace("**kwargs", "**flash_kwargs: Unpack[Kwargs]") for text in (BEFORE, AFTER))
    check_transformed(RULE, before, after.replace("kwargs.pop", "flash_kwargs.pop"))


def test_the_mixin_by_the_file_s_own_name_or_imported():
    other = "from transformers.generation import GenerationMixin as Mixin\nfrom transformers import PreTrainedModel"
    first = "from transformers import GenerationMixin, PreTrainedModel"
    before, after = (text.replace(first, other) for text in (BEFORE, AFTER))
    check_transformed(RULE, before, after.replace("hasattr(GenerationMixin", "hasattr(Mixin"))
    before, after = (text.replace("GenerationMixin, P", "P") for text in (BEFORE, AFTER))
    added = "import PreTrainedModel\n\nfrom transformers.generation import GenerationMixin\n"
    assert rewritten(RULE, before) == after.replace("import PreTrainedModel\n", added)


HANDED_ON = """\
class Head(PreTrainedModel):
    def forward(self, x=None, cache_position=None, **kwargs):
        return self.model(
            x,
            cache_position=cache_position,
            **kwargs,
        )
"""


def test_what_only_hands_it_on_hands_on_all_keyword_arguments():
    first = "from transformers import GenerationMixin, PreTrainedModel\n"
    after = HANDED_ON.replace("cache_position=None, ", "").replace("            cache_position=cache_position,\n", "")
    check_transformed(RULE, first + HANDED_ON, first + after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("            **kwargs,\n", ""),
        ("            **kwargs,\n", "            **others,\n"),
        ("cache_position=cache_position,", "cache_position=cache_position + 0,"),
        ("        return", "        print(cache_position)\n        return"),
    ],
)
def test_what_does_more_with_it_pops_it(old, new):
    first = "from transformers import GenerationMixin, PreTrainedModel\n"
    result = rewritten(RULE, first + HANDED_ON.replace(old, new))
    assert 'cache_position = kwargs.pop("cache_position", None)\n' in result
    assert new in result


def test_below_the_docstring():
    doc = '):\n        """Compute."""\n'
    before = BEFORE.replace("):\n        return", f"{doc}        return")
    check_transformed(RULE, before, AFTER.replace("):\n        cache", f"{doc}        cache"))


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace("(PreTrainedModel)", "(nn.Module)"),
        BEFORE.replace("def forward", "def other"),
        BEFORE.replace("cache_position=None, ", ""),
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (", **kwargs", ""),
        ("input_ids=None, cache_position=None", "input_ids, cache_position"),
        ("cache_position", "*, cache_position"),
    ],
)
def test_named_with_its_line(old, new):
    check_unrecognised(RULE, BEFORE.replace(old, new, 1), 4)
