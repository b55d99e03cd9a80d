import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "return-dict"
VALUE = '{0}.return_dict and not getattr({0}, "torchscript", False)'


@pytest.mark.parametrize("config", ["self.config", "config", "self.model.config"])
def test_the_property_is_written_out(config):
    check_transformed(
        RULE,
        f"x = not {config}.use_return_dict\n",
        f"use_return_dict = {VALUE.format(config)}\nx = not use_return_dict\n",
    )


def test_on_a_line_of_its_own_above_the_statement():
    function = "def forward(self, x):\n    if x:\n        # which\n{}"
    check_transformed(
        RULE,
        function.format("        return f(\n            x, self.config.use_return_dict\n        )\n"),
        function.format(
            f"        use_return_dict = {VALUE.format('self.config')}\n"
            "        return f(\n            x, use_return_dict\n        )\n"
        ),
    )


@pytest.mark.parametrize(
    "source",
    [
        "if {}: x = 1\n",  # no simple statement
        "x = 1; y = {}\n",
        "if x: y = {}\n",
        "class A:\n    x = {}\n",
        "f = lambda config: {}\n",
        "x = [{} for config in configs]\n",
        "x = {} if config else None\n",  # where there is none, nothing must be asked of it
        "use_return_dict = 1\nx = {}\n",
    ],
)
def test_in_place_where_a_line_above_would_be_something_else(source):
    check_transformed(RULE, source.format("config.use_return_dict"), source.format(f"({VALUE.format('config')})"))


@pytest.mark.parametrize("source", ["self.config.return_dict\n", "self.use_return_dict\n", "use_return_dict = 1\n"])
def test_left_alone(source):
    check_noop(RULE, source)
