"""The miniature under each default release, in that release's own kernel environment."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from opensci_lib import kernels
from opensci_lib.model_folder import read_config, write_json
from opensci_lib.reports.compare import Run, compare_positions, difference, first_divergence, verdict

pytestmark = pytest.mark.kernel

RELEASES = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())["tf_versions"]


@pytest.mark.parametrize("tf_version", ["4.48.0", "4.49.0", "4.57.6"])
def test_inference_4x(run, tf_version):
    """The unmodified folder, with the shim."""
    record = run(tf_version, "original").record
    assert record["versions"]["transformers"] == tf_version
    assert "Paris" in record["completions"][0]


@pytest.mark.parametrize("tf_version", ["5.0.0", "5.2.0", "5.3.0", "5.23.0"])
def test_inference_5x(run, tf_version):
    """The fixed folder, with nothing patched at run time."""
    record = run(tf_version, "fixed").record
    assert record["versions"]["transformers"] == tf_version
    assert "Paris" in record["completions"][0]
    assert record["weights"]["differing"] == []


@pytest.mark.parametrize("tf_version", [*RELEASES, "5.3.0"])  # 5.3 ties weights in a way of its own
def test_logits_identical(run, tf_version):
    reference, candidate = run("4.48.0", "original"), run(tf_version, "fixed")
    for prompt in range(len(reference.capture.prompts)):
        frame = compare_positions(reference.capture, candidate.capture, prompt)
        assert frame["bitwise_equal"].all()
        assert (frame[["cos_abs_diff", "sin_abs_diff"]] == 0).all(axis=None)
        assert first_divergence(reference.capture, candidate.capture, prompt) is None
        assert np.array_equal(reference.capture[f"{prompt}.inv_freq"], candidate.capture[f"{prompt}.inv_freq"])
    assert candidate.record["completions"] == reference.record["completions"]


@pytest.mark.parametrize("tf_version", ["4.49.0", "4.57.6"])
def test_original_logits_identical(run, tf_version):
    reference, candidate = run("4.48.0", "original"), run(tf_version, "original")
    assert compare_positions(reference.capture, candidate.capture, 1)["bitwise_equal"].all()


def test_minimal_is_wrong_on_5x_and_the_verdict_says_why(run):
    reference = run("4.48.0", "original")
    misled = run("5.2.0", "minimal")
    assert not compare_positions(reference.capture, misled.capture, 1)["bitwise_equal"].all()
    assert "inv_freq holds" in verdict(reference, misled, 1)
    assert "layer 0, queries after RoPE" in verdict(reference, misled, 1)
    overwritten = run("5.0.0", "minimal")
    assert "tensors differ from the checkpoint" in verdict(reference, overwritten, 1)


_BFLOAT16 = """
import sys
from opensci_lib import shim
from opensci_lib.generate import generate
from opensci_lib.miniature import PROMPTS

folder, variant, dtype, output = sys.argv[1:]
if variant == "original":
    shim.apply()
run = generate(folder, PROMPTS, dtype=dtype, capture_path=f"{output}/capture.safetensors")
run.save(f"{output}/run.json", variant=variant)
"""


@pytest.fixture(scope="module")
def as_published(variant_folder, tmp_path_factory):
    """Return a function that runs a variant as the published models are: bfloat16 in its config.json too."""

    @cache
    def start(tf_version: str, variant: str, dtype: str) -> Run:
        folder, output = tmp_path_factory.mktemp(variant) / variant, tmp_path_factory.mktemp("run")
        shutil.copytree(variant_folder(variant), folder)
        write_json(folder / "config.json", {**read_config(folder), "torch_dtype": "bfloat16"})
        assert kernels.run(tf_version, "-c", _BFLOAT16, folder, variant, dtype, output).returncode == 0
        return Run(output)

    return start


@pytest.mark.parametrize("tf_version", ["4.57.6", "5.23.0"])
def test_a_bfloat16_configuration(as_published, run, tf_version):
    """Equal in the configuration's dtype, and in one that is asked for; between the two the dtype is the cause."""
    reference, candidate = (as_published(*which, "auto") for which in (("4.48.0", "original"), (tf_version, "fixed")))
    assert candidate.record["settings"]["dtype"] == "bfloat16"
    exact, asked = run("4.48.0", "original"), as_published(tf_version, "fixed", "float32")
    for prompt in range(2):
        assert difference(reference, candidate, prompt) is None
        assert difference(exact, asked, prompt) is None
        assert verdict(exact, candidate, prompt).endswith(": its dtype is bfloat16, the reference's float32")


def test_the_passage_is_informative(run):
    """Equal logits over a text that the model can't follow would prove little."""
    capture = run("4.48.0", "original").capture
    logits, ids = capture["1.logits"].astype(np.float64), capture["1.token_ids"]
    assert 300 <= len(ids) <= 600
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    nats = -log_probabilities[np.arange(len(ids) - 1), ids[1:]].mean()
    assert nats < np.log(logits.shape[1]) / 2
