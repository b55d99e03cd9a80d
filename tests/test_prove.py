"""Proofs, on made-up releases and on real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from opensci_lib import kernels
from opensci_lib.check import CHECKS
from opensci_lib.cli import main
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix, proofs
from opensci_lib.model_folder import code_digest
from opensci_lib.prove import Outcome, Proof, find_reference, prove
from opensci_lib.runs.reference import Reference, reference_of
from opensci_lib.twin import shrunk
from tests import tiny
from tests.hotfix.folder import MODELING, make_folder
from tests.stand_in import StandIn

LOGITS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
FINE = dict.fromkeys(CHECKS, "")


def outcome(release: str, logits=LOGITS, **faults: str) -> Outcome:
    return Outcome(release, {**FINE, **faults}, "sdpa", logits)


def proof(*outcomes: Outcome, **faults: str) -> Proof:
    return Proof("4.48.0", outcome("4.48.0", **faults), list(outcomes), "abc", ["tied-keys"])


def test_equal_logits_and_no_fault_are_a_proof():
    found = proof(outcome("4.48.0"), outcome("5.0.0"))
    assert found.is_proven
    assert found.releases == ["4.48.0", "5.0.0"]


@pytest.mark.parametrize(
    "wrong",
    [
        outcome("5.0.0", np.nextafter(LOGITS, np.float32(9))),
        outcome("5.0.0", LOGITS.astype(np.float64)),
        outcome("5.0.0", LOGITS[:1]),
        outcome("5.0.0", None),
        outcome("5.0.0", cache="parts"),
        Outcome("5.0.0", {"loads": "ImportError: gone"}),
    ],
)
def test_one_release_that_differs_or_fails_is_none(wrong):
    found = proof(outcome("4.48.0"), wrong)
    assert not found.is_proven
    assert found.releases == ["4.48.0"]


def test_a_fault_that_the_reference_has_too_is_none_of_the_fix():
    found = proof(outcome("5.0.0", saving="OSError: other words"), saving="OSError: no file")
    assert found.is_proven
    assert found.table()["saving"].tolist() == ["as reference"]


def test_a_loud_fault_that_became_a_quiet_one_counts():
    found = proof(outcome("5.0.0", cache="greedy decoding parts"), cache="AttributeError: get_max_length")
    assert not found.is_proven
    assert found.table()["cache"].tolist() == ["fault"]


def test_the_table_says_each_release_in_words():
    off = outcome("5.0.0", LOGITS + np.float32(0.5), buffers="inv_freq holds")
    table = proof(outcome("4.48.0"), off, Outcome("5.2.0", {"loads": "gone"})).table()
    assert table["tf_version"].tolist() == ["4.48.0", "5.0.0", "5.2.0"]
    assert table["loads"].tolist() == ["ok", "ok", "fault"]
    assert table["buffers"].tolist() == ["ok", "fault", "-"]
    assert table["logits"].tolist() == ["equal", "0.5", "-"]


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """Return a function that makes up releases: each gives these faults and logits, for any folder."""
    stand_in = StandIn(tmp_path / "stand-in", monkeypatch)

    def make(**outcomes: tuple[dict[str, str], np.ndarray]) -> StandIn:
        for name, (faults, logits) in outcomes.items():
            release = name.removeprefix("r").replace("_", ".")
            (place := tmp_path / release).mkdir()
            findings = [{"check": check, "fault": fault} for check, fault in faults.items()]
            (place / "report.json").write_text(json.dumps({"findings": findings, "attn_implementation": "eager"}))
            np.save(place / "logits.npy", logits)
            stand_in.add(release, f'[ "$1" = -c ] && echo "$6" >> {tmp_path}/attention && cp {place}/* "$5"')
        return stand_in

    return make


def silent(line):
    pass


def test_the_reference_is_the_first_release_that_repeats_itself(releases, tmp_path):
    broken = ({"loads": "ImportError: later"}, LOGITS)
    drifting = ({**FINE, "forward": "a second forward pass gives other logits"}, LOGITS)
    stand_in = releases(r4_48_0=broken, r4_49_0=drifting, r4_57_6=(FINE, LOGITS), r5_10_0=(FINE, LOGITS + 1))
    found = prove(make_folder(tmp_path / "tiny"), weights=True, report=silent)
    assert found.reference == "4.57.6"
    assert [each.tf_version for each in found.outcomes] == ["4.57.6", "5.10.0"]
    assert found.releases == ["4.57.6"]
    assert not found.is_proven
    assert stand_in.calls == ["4.48.0", "4.49.0", "4.57.6", "4.57.6", "5.10.0"]
    # what the reference chose is asked for on all others
    assert (tmp_path / "attention").read_text().split() == ["eager", "eager"]


def test_a_reference_is_found_without_a_proof(releases, tmp_path):
    stand_in = releases(
        r4_48_0=({"loads": "ImportError: later"}, LOGITS), r4_57_6=(FINE, LOGITS), r5_10_0=(FINE, LOGITS)
    )
    folder = make_folder(tmp_path / "tiny")
    assert find_reference(folder, weights=True, report=silent) == Reference(
        "4.57.6", found=True, failed={"4.48.0": "ImportError: later"}
    )
    assert stand_in.calls == ["4.48.0", "4.57.6"]
    command = ["reference", "--src_dir", str(folder), "--weights", "--tf_versions", "5.10.0"]
    said = CliRunner().invoke(main, [*command, "--json", str(tmp_path / "reference.json")])
    assert (said.exit_code, said.stdout) == (0, "5.10.0\n")
    assert reference_of(tmp_path) == Reference("5.10.0", found=True)


def test_a_folder_without_a_reference_is_refused(releases, tmp_path):
    releases(r4_48_0=({"loads": "ImportError: flash_attn"}, LOGITS))
    folder = make_folder(tmp_path / "tiny")
    with pytest.raises(OpensciError, match=r"tiny runs on none of 4\.48\.0, on the last: ImportError: flash_attn"):
        prove(folder, weights=True, report=silent)


def test_missing_packages_end_it_at_the_first_release(releases, tmp_path):
    said = "the code needs einops, which the environment lacks: add it with --with"
    stand_in = releases(r4_48_0=({"loads": said}, LOGITS), r5_0_0=(FINE, LOGITS))
    with pytest.raises(OpensciError, match=r"tiny: the code needs einops, which .* with --with\.$"):
        prove(make_folder(tmp_path / "tiny"), weights=True, report=silent)
    assert stand_in.calls == ["4.48.0"]


def test_missing_packages_are_found_in_what_an_error_says(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path / "stand-in", monkeypatch)
    error = "your environment: a, b_c. Run pip"
    stand_in.add("4.48.0", f"echo 'ImportError: packages that were not found in {error}' >&2; exit 1")
    with pytest.raises(OpensciError, match=r"tiny: the code needs a, b_c, which"):
        prove(make_folder(tmp_path / "tiny"), weights=True, report=silent)


def test_what_the_hotfix_refuses_is_not_proven(releases, tmp_path):
    releases(r4_48_0=(FINE, LOGITS))
    folder = make_folder(tmp_path / "tiny")
    code = MODELING + "\n\ndef peek(cache):\n    return cache.key_cache[0]\n"
    (folder / "modeling_tiny.py").write_text(code)
    with pytest.raises(OpensciError, match=r"cache-internals refuses .*, line \d+"):
        prove(folder, weights=True, report=silent)


def test_a_proof_is_kept_in_the_record_and_said_by_the_hotfix(releases, tmp_path, monkeypatch):
    monkeypatch.setattr(proofs, "SHIPPED", tmp_path / "none.json")
    (tmp_path / "none.json").write_text("{}")
    releases(r4_48_0=(FINE, LOGITS), r5_0_0=(FINE, LOGITS))
    folder = make_folder(tmp_path / "tiny")
    fixing = ["hotfix", "--src_dir", str(folder)]
    assert f"not proven: run `opensci prove --src_dir {folder}`\n" in CliRunner().invoke(main, fixing).output
    said = CliRunner().invoke(main, ["prove", "--src_dir", str(folder), "--weights"])
    assert said.exit_code == 0, said.output
    assert "Reference 4.48.0; equal on 2 of 2 releases.\n" in said.output
    record = json.loads((tmp_path / "tiny_fixed" / "hotfix.json").read_text())["proven"]
    assert (record["reference"], record["releases"]) == ("4.48.0", ["4.48.0", "5.0.0"])
    again = CliRunner().invoke(main, fixing).output
    assert "up to date, nothing written" in again
    assert "\nproven on 2 releases from 4.48.0 on (" in again
    # code that changed is other code
    edited = tmp_path / "tiny_fixed" / "modeling_tiny.py"
    edited.write_text(edited.read_text() + "\nchanged = 1\n")
    assert proofs.proof_of(tmp_path / "tiny_fixed") is None


def test_shipped_proofs_hold_for_folders_of_the_same_code(tmp_path, monkeypatch):
    fixed = Path(hotfix(make_folder(tmp_path / "tiny")).dst_dir)
    shipped = {code_digest(fixed): {"reference": "4.48.0", "releases": ["4.48.0"], "date": "2026-11-25"}}
    (tmp_path / "shipped.json").write_text(json.dumps(shipped))
    monkeypatch.setattr(proofs, "SHIPPED", tmp_path / "shipped.json")
    assert proofs.proof_of(fixed) == shipped[code_digest(fixed)]
    assert proofs.proof_of(tmp_path / "tiny") is None


def test_the_digest_is_of_code_alone(tmp_path):
    """Not of sizes, or of the notice with this package's version."""
    source = make_folder(tmp_path / "tiny")
    fixed = Path(hotfix(source, rules=["auto-model"]).dst_dir)
    assert code_digest(fixed) == code_digest(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": 8}))
    assert code_digest(fixed) == code_digest(source)
    noticed = Path(hotfix(fixed, tmp_path / "other", rules=["tied-keys"]).dst_dir)
    text = (noticed / "modeling_tiny.py").read_text()
    digest = code_digest(noticed)
    assert "# Changed by opensci hotfix" in text
    (noticed / "modeling_tiny.py").write_text(text.replace("opensci hotfix 0.", "opensci hotfix 9."))
    assert code_digest(noticed) == digest
    (noticed / "modeling_tiny.py").write_text(text.replace("lm_head", "head"))
    assert code_digest(noticed) != digest


def test_sizes_are_cut_together():
    config = {
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
        "hidden_size": 2048, "intermediate_size": 5632, "vocab_size": 126464, "eos_token_id": 126081,
        "pad_token_id": None, "bos_token_id": 1, "layer_types": ["full"] * 28, "tie_word_embeddings": True,
        "rope_scaling": {"factor": 40, "original_max_position_embeddings": 4096, "short_factor": [1.0] * 64},
        "max_position_embeddings": 163840, "n_routed_experts": 64, "num_experts_per_tok": 6, "rope_theta": 10000,
    }  # fmt: skip
    assert shrunk(config) == {
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "hidden_size": 64, "intermediate_size": 96, "vocab_size": 512, "eos_token_id": 511,
        "layer_types": ["full"] * 2,
        "rope_scaling": {"factor": 40, "original_max_position_embeddings": 64, "short_factor": [1.0] * 8},
        "max_position_embeddings": 256, "n_routed_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip


def test_a_small_configuration_stays():
    assert shrunk({"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 512, "num_attention_heads": 4}) == {}
    assert shrunk({"num_attention_heads": 16, "num_key_value_heads": 16})["num_key_value_heads"] == 4


@pytest.mark.kernel
def test_the_twin_hides_no_mistake(miniature, tmp_path):
    folder = tmp_path / "twin"
    command = ["random-model", "--like", str(miniature), "--dst_dir", str(folder), "--tf_version", "4.48.0"]
    assert kernels.run("4.48.0", "-m", "opensci_lib", *command, capture_output=True).returncode == 0
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == 2 + 2 * 18
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        assert not (tensor == 0).any(), name
        assert not (tensor == 1).any(), name
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2


@pytest.mark.kernel
def test_a_twin_is_made_of_several_files_and_of_what_nothing_initialises(tmp_path):
    folder, twin = tiny.write(tmp_path / "tiny"), tmp_path / "twin"
    code = (folder / "modeling_tiny.py").read_text()
    code = code.replace("from torch import nn\n", "from torch import nn\n\nfrom .parts import empty\n")
    code = code.replace(
        "        self.post_init()", "        self.norm = nn.Parameter(empty(64))\n        self.post_init()"
    )
    (folder / "modeling_tiny.py").write_text(code)
    (folder / "parts.py").write_text("from torch import empty\n")
    result = kernels.run("4.48.0", "-m", "opensci_lib.twin", folder, twin, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    norm = load_file(twin / "model.safetensors")["norm"]
    assert 0.5 < norm.min() < 1 < norm.max() < 1.5
    assert {"modeling_tiny.py", "parts.py"} < {file.name for file in twin.iterdir()}


@pytest.mark.kernel
def test_the_miniature_is_proven(miniature):
    found = prove(miniature, ["4.48.0", "5.0.0", "5.23.0"], report=silent)
    assert found.reference == "4.48.0"
    assert found.is_proven
    assert found.table()["logits"].tolist() == ["equal"] * 3
    assert found.table()["saving"].tolist() == ["ok"] * 3
