import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "return-dict"


@pytest.mark.parametrize("config", ["self.config", "config", "self.model.config"])
def test_the_property_is_written_out(config):
    check_transformed(
        RULE,
        f"x = not {config}.use_return_dict\n",
        f'x = not ({config}.return_dict and not getattr({config}, "torchscript", False))\n',
    )


@pytest.mark.parametrize("source", ["self.config.return_dict\n", "self.use_return_dict\n", "use_return_dict = 1\n"])
def test_left_alone(source):
    check_noop(RULE, source)
