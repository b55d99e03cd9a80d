"""Each rule left out turns a check red, on a release that needs it; with all rules the check is passed."""

import json

import pytest

from opensci_lib import compat, kernels
from opensci_lib.hotfix import all_rules, hotfix

LOADS = "auto: AutoModelForCausalLM"
STATIC = "generation: cache_implementation static"
WARNINGS = "messages: no warning that a native model does not get too"

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
        "tie-word-embeddings": "weights: tied embeddings are one storage",
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
    assert sorted(rule for rules in NEEDED.values() for rule in rules) == [rule.id for rule in all_rules()]


@pytest.mark.parametrize("release", NEEDED)
def test_without_the_rule_its_check_fails(release, miniature, compat_reference, tmp_path):
    rules = [rule.id for rule in all_rules()]
    asked, expected = {}, {}
    for left_out, check in NEEDED[release].items():
        # Folders of one name would be one module to transformers.
        folder = tmp_path / f"without_{left_out.replace('-', '_')}_{release.replace('.', '_')}"
        hotfix(miniature, folder, rules=[rule for rule in rules if rule != left_out])
        asked[str(folder)], expected[str(folder)] = [check], {check: compat.FAILS}
    whole = tmp_path / f"with_all_{release.replace('.', '_')}"
    hotfix(miniature, whole)
    checks = list(dict.fromkeys(NEEDED[release].values()))
    asked[str(whole)], expected[str(whole)] = checks, dict.fromkeys(checks, compat.OK)
    output = tmp_path / "found.json"
    assert kernels.run(release, "-c", _CHECK, compat_reference, output, json.dumps(asked)).returncode == 0
    assert json.loads(output.read_text()) == expected
