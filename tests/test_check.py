"""A folder is right or wrong without a reference: faults put in by hand, and those that the releases bring."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from opensci_lib import kernels
from opensci_lib.check import CHECKS, check
from opensci_lib.cli import main
from opensci_lib.errors import OpensciError
from tests import tiny
from tests.hotfix.folder import make_folder

_CHECK = """
import json, sys
from opensci_lib.check import check

print(json.dumps([check(folder).as_json() for folder in sys.argv[1:]]))
"""
_NATIVE = """
import sys
from pathlib import Path
from opensci_lib.compat.native import _folder

for name in ("Llama", "Qwen3"):
    _folder(name, Path(sys.argv[1]) / name)
"""
CODE = "modeling_opensci.py"


def checked(release: str, *folders: Path) -> list[dict[str, dict]]:
    """Check folders under a release and return, of each, the findings with a fault by check."""
    result = kernels.run(release, "-c", _CHECK, *folders, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    reports = json.loads(result.stdout.splitlines()[-1])
    for report in reports:
        assert report["tf_version"] == release
        assert report["is_right"] == (not any(finding["fault"] for finding in report["findings"]))
    return [{each["check"]: each for each in report["findings"] if each["fault"]} for report in reports]


def edited(folder: Path, text: str, instead: str) -> None:
    code = (folder / CODE).read_text()
    assert code.count(text) == 1
    (folder / CODE).write_text(code.replace(text, instead))


def configured(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def left_over(folder):
    configured(folder, num_hidden_layers=3)


def missing(folder):
    weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def tied(folder):
    weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}))
    configured(folder, tie_word_embeddings=False)
    edited(folder, "    def get_output_embeddings(self):\n",
           "    def tie_weights(self, *args, **kwargs):\n"
           "        self.lm_head.weight = self.model.embed_tokens.weight\n\n"
           "    def get_output_embeddings(self):\n")  # fmt: skip


def infinite(folder):
    weights(folder, lambda tensors: tensors["model.norm.weight"].fill(float("inf")))


def overwritten(folder):
    edited(folder, "    def set_input_embeddings(self, value):\n        self.embed_tokens = value\n",
           "    def set_input_embeddings(self, value):\n        self.embed_tokens = value\n\n"
           "    def train(self, mode=True):\n        self.norm.weight.data.fill_(2.0)\n"
           "        return super().train(mode)\n")  # fmt: skip


def drawn(folder):
    edited(folder, "hidden_states = self.norm(hidden_states)",
           "hidden_states = nn.functional.dropout(self.norm(hidden_states), 0.5, True)")  # fmt: skip


def deaf_to_the_cache(folder):
    edited(folder, "            position_ids = cache_position.unsqueeze(0)\n",
           "            position_ids = cache_position.unsqueeze(0)\n"
           "        position_ids = torch.arange(inputs_embeds.shape[1])[None]\n")  # fmt: skip


def deaf_to_padding(folder):
    edited(folder, "hidden_states = inputs_embeds\n",
           "hidden_states = inputs_embeds\n        causal_mask = None\n"
           "        position_ids = cache_position.unsqueeze(0)\n")  # fmt: skip


def unsaved(folder):
    edited(folder, "    def get_output_embeddings(self):\n",
           "    def save_pretrained(self, *args, **kwargs):\n        self.model.norm.weight.data.add_(1.0)\n"
           "        super().save_pretrained(*args, **kwargs)\n\n    def get_output_embeddings(self):\n")  # fmt: skip


#: A fault, the checks that find it, and what the first of them says.
FAULTS = {
    left_over: ({"checkpoint"}, "model.layers.3.input_layernorm.weight is in the checkpoint and not in the model"),
    missing: (
        {"checkpoint", "saving"},
        "model.layers.1.mlp.up_proj.weight is not in the checkpoint and was initialised anew",
    ),
    tied: ({"checkpoint"}, "the configuration says tie_word_embeddings=False, and the model's are tied"),
    infinite: ({"forward", "cache", "padding"}, "the logits are not finite"),
    overwritten: ({"checkpoint"}, "model.norm.weight differs from the checkpoint, as do 1 of 74 in all"),
    drawn: (
        {"forward", "cache", "padding", "saving"},
        "a second forward pass gives other logits: the model draws random numbers",
    ),
    deaf_to_the_cache: ({"cache", "padding"}, "greedy decoding with the KV cache has logits that differ by"),
    deaf_to_padding: ({"padding"}, "a left-padded row has logits that differ by"),
    unsaved: ({"saving"}, "what save_pretrained wrote gives other logits"),
}


@pytest.mark.kernel
def test_each_fault_is_found_by_its_check(variant_folder, tmp_path):
    folders = []
    for put_in in FAULTS:
        folders.append(shutil.copytree(variant_folder("fixed"), tmp_path / put_in.__name__))
        put_in(folders[-1])
    for (put_in, (checks, words)), found in zip(FAULTS.items(), checked("5.23.0", *folders), strict=True):
        assert found.keys() == checks, (put_in.__name__, found)
        assert words in found[min(checks, key=CHECKS.index)]["fault"]


@pytest.mark.kernel
def test_the_minimal_folder_has_both_faults_on_5_0_and_the_rotary_one_later(variant_folder):
    [on_5_0] = checked("5.0.0", variant_folder("minimal"))
    assert "differs from the checkpoint, as do 57 of 74" in on_5_0["checkpoint"]["fault"]
    assert on_5_0["checkpoint"]["rules"] == ["init-weights"]
    assert on_5_0["buffers"]["fault"].startswith("model.rotary_emb.inv_freq holds [")
    assert on_5_0["buffers"]["rules"] == ["rope-buffer"]
    [later] = checked("5.2.0", variant_folder("minimal"))
    assert "checkpoint" not in later
    assert later["buffers"]["rules"] == ["rope-buffer"]


@pytest.mark.kernel
@pytest.mark.parametrize("release", ["4.48.0", "5.0.0", "5.23.0"])
def test_the_fixed_folder_and_native_decoders_have_none(variant_folder, tmp_path, release):
    assert kernels.run("5.0.0", "-c", _NATIVE, tmp_path, capture_output=True).returncode == 0
    folders = [variant_folder("fixed"), *([tmp_path / "Llama", tmp_path / "Qwen3"] if release != "4.48.0" else [])]
    assert checked(release, *folders) == [{}] * len(folders)


@pytest.mark.kernel
def test_a_folder_that_does_not_load_is_checked_no_further(miniature):
    said = CliRunner().invoke(main, ["check", "--model_path", str(miniature), "--tf_version", "5.23.0"])
    assert said.exit_code == 1
    result = kernels.run("5.23.0", "-m", "opensci_lib", "check", "--json", "--model_path", miniature,
                         capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("Running configuration_opensci.py, modeling_opensci.py of ")
    [finding] = json.loads(result.stdout)["findings"]
    assert finding["check"] == "loads"
    assert finding["rules"] == ["loss-kwargs"]


HALVING = """
    def forward(self, *args, **kwargs):
        if not self.done:
            self.done = True
            self.model.norm.weight = torch.nn.Parameter(self.model.norm.weight / 2)
        return super().forward(*args, **kwargs)
"""


@pytest.mark.kernel
def test_what_is_saved_without_its_code_is_looked_at_all_the_same(miniature, tmp_path):
    """4.48 leaves the code out. A weight that each load changes on its first pass is worse."""
    folders = [shutil.copytree(miniature, tmp_path / name) for name in ("plain", "changing")]
    changing = folders[1] / CODE
    owner = "class Halved(OpensciForCausalLM):"
    changing.write_text(f"{changing.read_text()}\n\n{owner}\n    done = False\n{HALVING}")
    config = json.loads((folders[1] / "config.json").read_text())
    configured(folders[1], auto_map={**config["auto_map"], "AutoModelForCausalLM": "modeling_opensci.Halved"})
    plain, changing = checked("4.48.0", *folders)
    assert plain["saving"]["fault"].startswith("OSError: ")
    assert plain["saving"]["rules"] == ["save-code"]
    assert changing["saving"]["fault"] == "what save_pretrained wrote gives other logits"


def wheel(place: Path, name: str) -> Path:
    """Write a package of one empty module."""
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(place / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return Path(str(archive.filename))


@pytest.mark.kernel
def test_missing_packages_are_named_and_can_be_added(tmp_path):
    folder = tiny.write(tmp_path / "tiny")
    code = folder / "modeling_tiny.py"
    code.write_text(f"import a_rare_package\n{code.read_text()}")

    def loading(**options) -> str:
        command = ("-m", "opensci_lib", "check", "--json", "--model_path", folder)
        result = kernels.run("5.23.0", *command, capture_output=True, text=True, **options)
        return json.loads(result.stdout)["findings"][0]["fault"]

    assert loading() == "the code needs a_rare_package, which the environment lacks: add it with --with"
    assert loading(packages=[str(wheel(tmp_path, "a_rare_package"))]) == ""


def test_packages_need_a_release(tmp_path):
    said = CliRunner().invoke(main, ["check", "--model_path", str(make_folder(tmp_path / "a")), "--with", "einops"])
    assert said.exit_code == 1
    assert "name its release with --tf_version" in said.output


def test_a_folder_without_a_causal_model_is_refused(tmp_path):
    folder = make_folder(tmp_path / "tiny")
    (folder / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(OpensciError, match=r"names no causal language model \(BertForMaskedLM\)"):
        check(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = make_folder(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OpensciError, match=r"model.safetensors is missing"):
        check(folder)
