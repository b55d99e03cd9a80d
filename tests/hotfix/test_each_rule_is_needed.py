"""Each rule left out turns a check red, on a release that needs it; with all rules the check is passed."""

import json
import shutil

import pytest

from opensci_lib import compat, kernels
from opensci_lib.hotfix import all_rules, hotfix
from tests.hotfix.test_mlinter import findings

LOADS = "auto: AutoModelForCausalLM"
STATIC = "generation: cache_implementation static"
WARNINGS = "messages: no warning that a native model does not get too"

RULES = [rule.id for rule in all_rules()]

#: Release, then rule to the check that fails without it.
NEEDED = {
    "4.48.0": {
        "auto-heads": "auto: AutoModelForSequenceClassification",
        "auto-model": "auto: AutoModel",
        "model-input-names": "tokenizer: model_input_names: what generate() accepts",
        "pipeline-tokenizer": 'auto: pipeline("text-generation")',
        "save-code": "saving: save_pretrained and reload: code, config, tokenizer, weights",
    },
    "4.52.4": {"mask-device": STATIC},
    "5.0.0": {
        "init-weights": "weights: every tensor as in the checkpoint, no key missing or left over",
    },
    "5.3.0": {"loss-kwargs": LOADS, "rope-default": LOADS, "tied-keys": LOADS},
    "5.12.1": {"cache-length": STATIC},
    "5.23.0": {
        "attention-switch": "attention: attention chosen anew after loading",
        "cache-position": WARNINGS,
        "capability-flags": "attention: flags: all that a native Llama sets",
        "causal-mask": STATIC,
        "checkpoint-layers": "training: gradient checkpointing of every second layer",
        "return-dict": WARNINGS,
        "rope-buffer": "logits: float32, SDPA, as on 4.48.0",
        "rope-parameters": WARNINGS,
        "tokenizer-class": "tokenizer: a hundred awkward strings: ids as tokenizer.json has them",
    },
}

#: No release fails without this one yet; the library's linter already does.
LINTED = {"tie-word-embeddings": "TRF015"}

#: Once `init-weights` calls the library's own, that refills the buffers of classes with this name, and of no others.
_KNOWN_BY_NAME, _RENAMED = "OpensciRotaryEmbedding", "OpensciRope"

_CHECK = """
import json, sys, warnings
from opensci_lib import compat

warnings.simplefilter("ignore")
reference, output, asked = sys.argv[1:]
found = {}
for folder, features in json.loads(asked).items():
    rows = compat.check(folder, reference, features=features)
    found[folder] = {f"{row.group}: {row.feature}": row.result for row in rows}
json.dump(found, open(output, "w"))
"""


def test_every_rule_is_asked_about():
    assert sorted([*LINTED, *(rule for rules in NEEDED.values() for rule in rules)]) == RULES


@pytest.fixture(scope="module")
def source(miniature, tmp_path_factory):
    """The miniature, with its rotary embedding under a name that the library does not know."""
    folder = tmp_path_factory.mktemp("renamed") / "source"
    shutil.copytree(miniature, folder)
    code = folder / "modeling_opensci.py"
    assert _KNOWN_BY_NAME in code.read_text()
    code.write_text(code.read_text().replace(_KNOWN_BY_NAME, _RENAMED))
    return folder


def without(rule: str) -> list[str]:
    return [other for other in RULES if other != rule]


@pytest.mark.parametrize("release", NEEDED)
def test_without_the_rule_its_check_fails(release, source, compat_reference, tmp_path):
    asked, expected = {}, {}
    for rule, check in NEEDED[release].items():
        # Folders of one name would be one module to transformers.
        folder = tmp_path / f"without_{rule.replace('-', '_')}_{release.replace('.', '_')}"
        hotfix(source, folder, rules=without(rule))
        asked[str(folder)], expected[str(folder)] = [check], {check: compat.FAILS}
    whole = tmp_path / f"with_all_{release.replace('.', '_')}"
    hotfix(source, whole)
    checks = list(dict.fromkeys(NEEDED[release].values()))
    asked[str(whole)], expected[str(whole)] = checks, dict.fromkeys(checks, compat.OK)
    output = tmp_path / "found.json"
    assert kernels.run(release, "-c", _CHECK, compat_reference, output, json.dumps(asked)).returncode == 0
    assert json.loads(output.read_text()) == expected


@pytest.mark.parametrize("rule", LINTED)
def test_without_the_rule_the_linter_finds_it(rule, source, tmp_path):
    hotfix(source, tmp_path / "whole")
    hotfix(source, tmp_path / "wanting", rules=without(rule))
    assert LINTED[rule] not in findings(tmp_path / "whole", tmp_path / "found.json")
    assert LINTED[rule] in findings(tmp_path / "wanting", tmp_path / "found.json")
