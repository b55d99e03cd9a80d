"""The rotary embedding, against its closed form, whatever memory held before."""

import copy
import math
from typing import Any

import torch
import transformers

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits

_TRAINED = 64  # max_position_embeddings of the checks
_TYPES: dict[str, dict[str, Any] | None] = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def closed_form(config: Any, kind: str, positions: int = 1, theta: float = 10000.0) -> tuple[torch.Tensor, float]:
    """Return (inv_freq, attention_scaling): float64 (head_dim / 2), radians a token, and a factor of cos and sin.

    Sources: default, Su et al. 2021 (arXiv 2104.09864), section 3.2.2; linear, Chen et al. 2023 (2306.15595);
    dynamic, NTK-aware scaling, in Peng et al. 2023 (2309.00071), section 3.3; yarn, the same, definitions 2 and 3;
    llama3, the Llama 3.1 model card's `apply_scaling`.
    """
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    given = _TYPES[kind] or {}
    factor, base = given.get("factor", 1.0), theta
    if kind == "dynamic" and positions > _TRAINED:
        base *= (factor * positions / _TRAINED - (factor - 1)) ** (size / (size - 2))
    pairs = torch.arange(0, size, 2, dtype=torch.float64)
    speeds = base ** (-pairs / size)
    turns = 2 * math.pi / speeds  # tokens for a full rotation
    if kind == "linear":
        return speeds / factor, 1.0
    if kind == "yarn":

        def pair_that_turns(times: float) -> float:
            return size * math.log(_TRAINED / (times * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(math.floor(pair_that_turns(32)), 0), min(math.ceil(pair_that_turns(1)), size - 1)
        slow = ((torch.arange(size // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
        return speeds / factor * slow + speeds * (1 - slow), 0.1 * math.log(factor) + 1
    if kind == "llama3":
        seen = given["original_max_position_embeddings"]
        smooth = (seen / turns - given["low_freq_factor"]) / (given["high_freq_factor"] - given["low_freq_factor"])
        smooth = smooth.clamp(0, 1)
        return speeds * smooth + speeds / factor * (1 - smooth), 1.0
    return speeds, 1.0


def rotary(model: Any) -> Any:
    """Return the module of a model that holds inv_freq."""
    found = [module for module in model.modules() if hasattr(module, "inv_freq")]
    expect_equal(len(found), 1, "modules with inv_freq")
    return found[0]


def _expect_closed_form(model: Any, kind: str, positions: int = 1, theta: float = 10000.0) -> None:
    module = rotary(model)
    inv_freq, scaling = closed_form(model.config, kind, positions, theta)
    # Half a unit in the last place of the buffer's own dtype, and the rounding of one power in float32.
    tolerance = torch.finfo(module.inv_freq.dtype).eps + 1e-6
    error = ((module.inv_freq.double() - inv_freq) / inv_freq).abs().max().item()
    expect(error <= tolerance, f"inv_freq is off by {error:.3g} of its value, as {module.inv_freq[:3].tolist()}")
    expect(abs(module.attention_scaling - scaling) <= 1e-6, f"attention_scaling is {module.attention_scaling}")


def _loaded(case: Case, kind: str, **options: Any) -> Any:
    edited = case.edited(rope_scaling=_TYPES[kind], rope_theta=10000.0, max_position_embeddings=_TRAINED)
    return edited.load(**options)


def _check_type(case: Case, kind: str) -> None:
    model = _loaded(case, kind)
    _expect_closed_form(model, kind)
    logits(model, case.ids[0])
    _expect_closed_form(model, kind)
    _expect_closed_form(_loaded(case, kind, dtype="bfloat16"), kind)


@feature("default", basic=True)
def default(case: Case) -> None:
    _check_type(case, "default")


@feature("linear")
def linear(case: Case) -> None:
    _check_type(case, "linear")


@feature("dynamic")
def dynamic(case: Case) -> None:
    _check_type(case, "dynamic")


@feature("dynamic, past the trained length and back")
def dynamic_and_back(case: Case) -> None:
    model = _loaded(case, "dynamic")
    short = logits(model, case.ids[0])
    for positions in (100, 150):
        logits(model, torch.ones(1, positions, dtype=torch.int64))
        _expect_closed_form(model, "dynamic", positions)
    if case.native:  # from 5.0 to 5.12 it does not find back; the model's own code does without the release
        return
    expect_equal(logits(model, case.ids[0]), short, "logits of a short prompt after a long one")
    _expect_closed_form(model, "dynamic")


@feature("yarn")
def yarn(case: Case) -> None:
    _check_type(case, "yarn")


@feature("llama3")
def llama3(case: Case) -> None:
    _check_type(case, "llama3")


@feature("right after .to(dtype) and .to(device)")
def moved(case: Case) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for kind in _TYPES:
        _expect_closed_form(_loaded(case, kind).to(torch.bfloat16).cpu(), kind)
        _expect_closed_form(_loaded(case, kind).to(device).cpu(), kind)
    model = case.load()
    before = logits(model, case.ids[0])
    expect_close(logits(model.to(torch.float64).float(), case.ids[0]), before, "logits after float64 and back", 1e-3)


@feature('right under device_map="auto"')
def device_map(case: Case) -> None:
    for kind in _TYPES:
        _expect_closed_form(_loaded(case, kind, device_map="auto").cpu(), kind)


@feature("right after from_config")
def from_config(case: Case) -> None:
    for kind, given in _TYPES.items():
        model = case.random(rope_scaling=given, rope_theta=10000.0, max_position_embeddings=_TRAINED)
        _expect_closed_form(model, kind)


@feature("right after save_pretrained and reload")
def saved(case: Case) -> None:
    for kind in _TYPES:
        folder = case.place(f"saved-{kind}")
        _loaded(case, kind).save_pretrained(folder)
        _expect_closed_form(Case(folder, folder / "work", case.native).load(), kind)


@feature("right however rope_theta, rope_scaling and max_position_embeddings are set")
def by_hand(case: Case) -> None:
    if case.native:  # takes rope_parameters alone from 5.0 on; the model's own code does without the release
        return
    theta = 1e6

    def config(**changes: Any) -> Any:
        return transformers.AutoConfig.from_pretrained(case.folder, trust_remote_code=True, **changes)

    def expect_built(config: Any, kind: str) -> None:
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True)
        _expect_closed_form(model, kind, theta=theta)

    for kind, given in _TYPES.items():
        changes: dict[str, Any] = {"rope_theta": theta, "rope_scaling": given, "max_position_embeddings": _TRAINED}
        if given is None:
            del changes["rope_scaling"]
        for names in (list(changes), list(changes)[::-1]):
            values = {name: copy.deepcopy(changes[name]) for name in names}  # some releases write into them
            expect_built(config(**copy.deepcopy(values)), kind)
            expect_built(type(config())(**{**config().to_dict(), **copy.deepcopy(values)}), kind)
            by_attribute = config()
            for name, value in values.items():
                setattr(by_attribute, name, value)
            expect_built(by_attribute, kind)
    # yarn of another length and theta in config.json, changed while loading, and saved
    edited = case.edited(rope_scaling=_TYPES["yarn"], rope_theta=10000.0, max_position_embeddings=2 * _TRAINED)
    model = edited.load(rope_theta=theta, max_position_embeddings=_TRAINED)
    _expect_closed_form(model, "yarn", theta=theta)
    folder = case.place("by-hand")
    model.save_pretrained(folder)
    _expect_closed_form(Case(folder, folder / "work").load(), "yarn", theta=theta)
