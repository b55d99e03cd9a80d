# The whole pipeline on one page, in the order in which data flows:
# kernel environments, model, hotfix, one papermill run per release and variant, summary, HTML.
#
#   uv run snakemake                                                       everything, on the built-in model
#   uv run snakemake --config models=ORG/NAME 'tf_versions=["4.48.0","5.23.0"]'
#   uv run snakemake --workflow-profile profiles/slurm                     runs as jobs of a SLURM cluster

import json
import re
from glob import glob
from shlex import quote

import psutil

from opensci_lib.kernels import available, marker
from opensci_lib.releases import ascending
from opensci_lib.variants import VARIANTS, model_and_revision, model_name, releases_and_variants


configfile: "config.yaml"


LISTED = [config["models"]] if isinstance(config["models"], str) else config["models"]
MODELS = {model_name(*pair): pair for pair in map(model_and_revision, LISTED)}
OUT = "outputs/{model}"
REFERENCE = "4.48.0"


def switched_on(key):
    """Whether a key of the configuration is true; on the command line `key=false` is a word."""
    return str(config[key]).lower() == "true"


RELEASES = ascending([REFERENCE, *config["tf_versions"]])
TASKS = [config["tasks"]] if isinstance(config["tasks"], str) else config["tasks"]
DATASETS = "outputs/datasets.txt" if TASKS else []
RUNS = [f"{release}/{variant}" for release, variant in releases_and_variants(RELEASES)]


THIS_RUN = {
    "model": lambda wildcards: MODELS[wildcards.model][0],
    "revision": lambda wildcards: MODELS[wildcards.model][1],
    "tf_version": lambda wildcards: wildcards.tf_version,
}


def parameters(**values):
    """What `papermill -y` is given: JSON is YAML, so one quoted argument carries strings, lists and nulls unharmed.

    A value may be a function of the wildcards.
    """
    return lambda wildcards: quote(
        json.dumps({key: value(wildcards) if callable(value) else value for key, value in values.items()})
    )


def folder(path, remove=False):
    """A model folder: no input or output of its own where weights are kept, so that a broken download can go on."""
    if switched_on("keep_weights"):
        return []
    return temp(directory(path)) if remove else path


def compat_releases(wildcards):
    """The releases in the compatibility matrix: this run's, all locked ones for `snakemake compat`, and those there."""
    asked = RELEASES if switched_on("features") else []
    every = available() if "compat" in workflow.dag_settings.targets else []
    done = glob_wildcards(f"outputs/{wildcards.model}/{{tf_version}}/compat.json").tf_version
    return ascending([*asked, *every, *done])


def reference_capture(wildcards):
    """What a run is compared with while it computes, where its own logits are not to be kept."""
    if switched_on("keep_logits") or f"{wildcards.tf_version}/{wildcards.variant}" == f"{REFERENCE}/original":
        return []
    return f"outputs/{wildcards.model}/{REFERENCE}/original/capture.safetensors"


def memory(kernel, weights):
    """MiB that a run takes: those of its kernel and a multiple of the weights; as much again after a failure."""

    def mebibytes(wildcards, input, attempt):
        with open(input.model) as record:
            return attempt * round(kernel + weights * json.load(record)["weights_bytes"] / 2**20)

    return mebibytes


if workflow.resource_settings.nodes is None:  # all on this machine: what does not fit has to wait
    workflow.register_resource("mem_mb", psutil.virtual_memory().total >> 20)


# A notebook as a job. It finds everything prepared, and a cluster's nodes have no network.
RUN = "HF_HUB_OFFLINE=1 papermill {input.notebook} {output.notebook} -y {params}"


# These need a network, or are over in seconds.
localrules:
    all, evaluation, compat, prepare, kernel, layer, download, hotfix, datasets, summary, evaluation_report, family, html, index,


wildcard_constraints:
    model="|".join(map(re.escape, MODELS)),
    tf_version=r"[\d.]+",
    variant="|".join(VARIANTS),


rule all:
    input:
        expand(f"{OUT}/index.html", model=MODELS),
        "outputs/family.html" if len(MODELS) > 1 else [],


rule evaluation:
    input:
        expand(f"{OUT}/evaluation.html", model=MODELS),


rule compat:
    input:
        expand(f"{OUT}/index.html", model=MODELS),


rule prepare:
    input:
        [marker(release) for release in RELEASES],
        [marker(release, "evaluation") for release in RELEASES],
        DATASETS,
        # Where weights are not kept, they come and go with the runs.
        expand(f"{OUT}/{{variant}}.json", model=MODELS, variant=VARIANTS) if switched_on("keep_weights") else [],


rule kernel:
    input:
        branch(exists("environments/transformers-{tf_version}.txt"), "environments/transformers-{tf_version}.txt"),
    output:
        marker("{tf_version}"),
    shell:
        "opensci kernels build {wildcards.tf_version}"


rule download:
    output:
        record=f"{OUT}/original.json",
        folder=folder(f"{OUT}/original", remove=True),
    params:
        model=lambda wildcards: quote(MODELS[wildcards.model][0]),
        revision=lambda wildcards: f"--revision {quote(revision)}" if (revision := MODELS[wildcards.model][1]) else "",
    shell:
        "opensci download {params.model} {params.revision} --local_dir outputs/{wildcards.model}/original"
        " && cp outputs/{wildcards.model}/original/download.json {output.record}"


rule hotfix:
    input:
        f"{OUT}/original.json",
        glob("opensci_lib/hotfix/**/*.py", recursive=True),
        folder(f"{OUT}/original"),
    output:
        record=f"{OUT}/{{variant}}.json",
        folder=folder(f"{OUT}/{{variant}}", remove=True),
    params:
        rules=lambda wildcards: f"--rules {','.join(rules)}" if (rules := VARIANTS[wildcards.variant]) else "",
        folder=f"{OUT}/{{variant}}",
    shell:
        "opensci hotfix --src_dir outputs/{wildcards.model}/original --dst_dir {params.folder} {params.rules}"
        " && cp {params.folder}/hotfix.json {output.record}"


rule infer:
    input:
        notebook="notebooks/infer.ipynb",
        kernel=marker("{tf_version}"),
        model=f"{OUT}/original.json",
        record=f"{OUT}/{{variant}}.json",
        folders=[folder(f"{OUT}/original"), folder(f"{OUT}/{{variant}}")],
        prompts=[prompt for prompt in config["prompts"] if prompt.endswith(".txt")],
        reference=reference_capture,
    output:
        notebook=f"{OUT}/{{tf_version}}/{{variant}}/infer.ipynb",
        capture=f"{OUT}/{{tf_version}}/{{variant}}/capture.safetensors",
        record=f"{OUT}/{{tf_version}}/{{variant}}/run.json",
    params:
        parameters(
            **THIS_RUN,
            variant=lambda wildcards: wildcards.variant,
            reference=lambda wildcards: reference_capture(wildcards) or None,
            **{key: config[key] for key in ("prompts", "prefill_chunk_size", "dtype", "device")},
            **{key: config[key] for key in ("attn_implementation", "max_new_tokens")},
        ),
    resources:
        mem_mb=memory(2000, 1.6),
    shell:
        RUN


rule features:
    input:
        notebook="notebooks/compat.ipynb",
        kernels=[marker(REFERENCE), marker("{tf_version}")],
        model=f"{OUT}/original.json",
        records=expand(f"{OUT}/{{variant}}.json", variant=VARIANTS, allow_missing=True),
        folders=[folder(f"{OUT}/{variant}") for variant in VARIANTS],
    output:
        notebook=f"{OUT}/{{tf_version}}/compat.ipynb",
        results=f"{OUT}/{{tf_version}}/compat.json",
    params:
        parameters(**THIS_RUN),
    resources:
        mem_mb=memory(3000, 20),
    shell:
        RUN


rule layer:
    input:
        branch(exists("environments/evaluation-{tf_version}.txt"), "environments/evaluation-{tf_version}.txt"),
        marker("{tf_version}"),
    output:
        marker("{tf_version}", "evaluation"),
    shell:
        "opensci kernels build {wildcards.tf_version} --layer evaluation"


rule datasets:
    output:
        "outputs/datasets.txt",
    params:
        tasks=quote(",".join(TASKS)),
    shell:
        "opensci download --tasks {params.tasks} > {output}"


rule evaluate:
    input:
        notebook="notebooks/evaluate.ipynb",
        layer=marker("{tf_version}", "evaluation"),
        datasets=DATASETS,
        model=f"{OUT}/original.json",
        record=f"{OUT}/{{variant}}.json",
        folders=[folder(f"{OUT}/original"), folder(f"{OUT}/{{variant}}")],
    output:
        notebook=f"{OUT}/{{tf_version}}/{{variant}}/evaluate.ipynb",
        results=f"{OUT}/{{tf_version}}/{{variant}}/eval.json",
        samples=f"{OUT}/{{tf_version}}/{{variant}}/samples.parquet",
        positions=f"{OUT}/{{tf_version}}/{{variant}}/positions.parquet",
    params:
        parameters(
            **THIS_RUN,
            variant=lambda wildcards: wildcards.variant,
            **{key: config[key] for key in ("tasks", "num_fewshot", "limit", "batch_size", "dtype", "device")},
        ),
    resources:
        mem_mb=memory(3000, 1.6),
    shell:
        RUN


rule summary:
    input:
        compat=lambda wildcards: expand(f"{OUT}/{{tf_version}}/compat.json", tf_version=compat_releases(wildcards), **wildcards),
        runs=expand(f"{OUT}/{{run}}/run.json", run=RUNS, allow_missing=True),
        captures=expand(f"{OUT}/{{run}}/capture.safetensors", run=RUNS, allow_missing=True),
        notebook="notebooks/summary.ipynb",
    output:
        notebook=f"{OUT}/summary.ipynb",
        parity=f"{OUT}/parity.csv",
        positions=f"{OUT}/positions.csv",
        compat=f"{OUT}/compat.csv",
    params:
        parameters(output_dir=lambda wildcards: f"outputs/{wildcards.model}", runs=RUNS, reference=f"{REFERENCE}/original"),
    shell:
        RUN


rule evaluation_report:
    input:
        results=expand(f"{OUT}/{{run}}/eval.json", run=RUNS, allow_missing=True),
        notebook="notebooks/evaluation_report.ipynb",
    output:
        notebook=f"{OUT}/evaluation.ipynb",
        scores=f"{OUT}/evaluation.csv",
        changed=f"{OUT}/changed_items.csv",
    params:
        parameters(output_dir=lambda wildcards: f"outputs/{wildcards.model}", runs=RUNS, reference=f"{REFERENCE}/original"),
    shell:
        RUN


rule family:
    input:
        parity=expand(f"{OUT}/parity.csv", model=MODELS),
        scores=expand(f"{OUT}/evaluation.csv", model=MODELS),
        notebook="notebooks/family.ipynb",
    output:
        notebook="outputs/family.ipynb",
        parity="outputs/family.csv",
        scores="outputs/family_scores.csv",
    params:
        parameters(output_dirs=[f"outputs/{model}" for model in MODELS]),
    shell:
        RUN


rule index:
    input:
        reports=[f"{OUT}/summary.html", f"{OUT}/evaluation.html"],
        notebooks=expand(f"{OUT}/{{run}}/{{notebook}}.html", run=RUNS, notebook=["infer", "evaluate"], allow_missing=True),
        features=lambda wildcards: expand(
            f"{OUT}/{{tf_version}}/compat.html", tf_version=compat_releases(wildcards), **wildcards
        ),
    output:
        f"{OUT}/index.html",
    shell:
        "opensci index --output_dir outputs/{wildcards.model}"


rule html:
    input:
        "{folder}/{notebook}.ipynb",
    output:
        "{folder}/{notebook}.html",
    shell:
        "jupyter nbconvert --to html --embed-images --CoalesceStreamsPreprocessor.enabled=True --log-level WARN"
        " --TemplateExporter.extra_template_basedirs=notebooks --template report {input}"
