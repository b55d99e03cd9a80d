# The whole pipeline on one page, in the order in which data flows:
# kernel environments, model, hotfix, one papermill run of a notebook per release, reports, HTML.
#
#   uv run snakemake                                                       everything, on the built-in model
#   uv run snakemake --config models=ORG/NAME 'tf_versions=["4.48.0","5.23.0"]'
#   uv run snakemake --workflow-profile profiles/slurm                     runs as jobs of a SLURM cluster

import json
import re
from dataclasses import asdict
from functools import cache
from glob import glob
from pathlib import Path
from shlex import quote

import psutil
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from opensci_lib import runs
from opensci_lib.kernels import available, kernel_name, marker
from opensci_lib.runs import VARIANTS
from opensci_lib.runs.reference import Reference, reference_of


configfile: "config.yaml"


LISTED = [config["models"]] if isinstance(config["models"], str) else config["models"]
MODELS = {runs.model_name(*pair): pair for pair in map(runs.model_and_revision, LISTED)}
OUT = "outputs/{model}"
TASKS = [config["tasks"]] if isinstance(config["tasks"], str) else config["tasks"]
DATASETS = "outputs/datasets.txt" if TASKS else []
VLLM = available("vllm")[-1:] if "vllm" in config["backends"] else []
REFERENCE = str(config["reference"])
if not re.fullmatch(r"auto|\d+\.\d+\.\d+", REFERENCE):
    raise WorkflowError(f"reference is {REFERENCE!r}: say auto, or a release, such as {available()[0]}.")


def switched_on(key):
    """Whether a key of the configuration is true; on the command line `key=false` is a word."""
    return str(config[key]).lower() == "true"


def asked(*targets):
    """Whether one of these targets is on the command line."""
    return not {*targets}.isdisjoint(workflow.dag_settings.targets)


def reference(model):
    """The release that a model's runs are held against. Where it has to be found, that comes before all else."""
    if REFERENCE != "auto":
        return REFERENCE
    return reference_of(Path(checkpoints.reference.get(model=model).output[0]).parent).tf_version


def releases_of(model):
    """The releases of a model's runs, from its reference on: all locked ones for `snakemake docs`."""
    first, every = reference(model), available() if asked("docs") else config["tf_versions"]
    wanted = runs.since(first, [first, *every])
    say_what_is_left_out(model, first, tuple(runs.ascending({*every} - {*wanted})))
    return wanted


@cache
def say_what_is_left_out(model, first, older):
    """Say it once."""
    if older:
        logger.info(f"{model}: {', '.join(older)} left out, as older than the reference, {first}.")


def releases(wildcards):
    """The releases of this run."""
    return releases_of(wildcards.model)


def variants(wildcards):
    """The variants that run on a release."""
    return runs.variants_on(wildcards.tf_version, reference(wildcards.model))


def run_names(wildcards):
    """The runs of these releases, as "<tf_version>/<variant>"."""
    return runs.names(releases(wildcards), reference(wildcards.model))


def compared_runs(wildcards):
    """The runs that reports compare: vLLM's beside those of the releases."""
    return [*run_names(wildcards), *(f"{release}/vllm" for release in VLLM)]


def every_release():
    """The releases of any model."""
    return runs.ascending(release for model in MODELS for release in releases_of(model))


def of_releases(path):
    """A file of each release."""
    return lambda wildcards: expand(path, tf_version=releases(wildcards), **wildcards)


def checked_releases(wildcards):
    """The releases in the compatibility matrix: this run's, all locked ones for `snakemake compat`, and those there."""
    every = available() if asked("compat") else []
    done = glob_wildcards(f"outputs/{wildcards.model}/{{tf_version}}/compat.json").tf_version
    return runs.since(reference(wildcards.model), [*releases(wildcards), *every, *done])


def compiled(wildcards):
    """Whether checks that take the compiler are made: where they are asked for, and where they were made before.

    A cluster's jobs know the configuration and not the targets.
    """
    done = f"outputs/{wildcards.model}/{wildcards.tf_version}/compat.json"
    before = exists(done) and json.load(open(done)).get("compiled", True)
    return switched_on("compiled") or asked("compat", "docs") or before


def pages(wildcards):
    """The notebooks of a model's runs, as they become pages: those of each release, one kind after the other."""
    kinds = {"infer": releases(wildcards), "evaluate": releases(wildcards)}
    if switched_on("compat"):
        kinds["compat"] = checked_releases(wildcards)
    return [f"outputs/{wildcards.model}/{release}/{kind}.ipynb" for kind, of in kinds.items() for release in of]


def folder(path, remove=False):
    """A model folder: no input or output of its own where weights are kept, so that a broken download can go on."""
    if switched_on("keep_weights"):
        return []
    return temp(directory(path)) if remove else path


def compared(wildcards):
    """What a run is compared with while it computes, where its own logits are not to be kept."""
    if switched_on("keep_logits"):
        return None
    return f"outputs/{wildcards.model}/{reference(wildcards.model)}/original/capture.safetensors"


def reference_run(wildcards):
    """The run that must be there before others are compared with it as they compute."""
    first = reference(wildcards.model)
    return f"{OUT}/{first}/infer.ipynb" if compared(wildcards) and wildcards.tf_version != first else []


def memory(kernel, weights):
    """MiB that a run takes: those of its kernel and a multiple of the weights; as much again after a failure."""

    def mebibytes(wildcards, input, attempt):
        with open(input.model) as record:
            return attempt * round(kernel + weights * json.load(record)["weights_bytes"] / 2**20)

    return mebibytes


if workflow.resource_settings.nodes is None:  # all on this machine: what does not fit has to wait
    workflow.register_resource("mem_mb", psutil.virtual_memory().total >> 20)


def parameters(**values):
    """What `papermill -y` is given: JSON is YAML, so one quoted argument carries strings, lists and nulls unharmed.

    A value may be a function of the wildcards.
    """
    return lambda wildcards: quote(
        json.dumps({key: value(wildcards) if callable(value) else value for key, value in values.items()})
    )


THIS_MODEL = {
    "model": lambda wildcards: MODELS[wildcards.model][0],
    "revision": lambda wildcards: MODELS[wildcards.model][1],
    "tf_version": lambda wildcards: wildcards.tf_version,
}
THIS_REPORT = {"output_dir": lambda wildcards: f"outputs/{wildcards.model}"}
# A notebook as a job. It finds everything prepared, and a cluster's nodes have no network.
RUN = (
    f"HF_HUB_OFFLINE=1 papermill --execution-timeout {config['cell_timeout']}"
    " {input.notebook} {output.notebook} -y {params}"
)


def run_or_say(record):
    """A run, which in its last try may come to no end: the engine then wrote down why, and reports show it."""
    failed = f"outputs/{{wildcards.model}}/{{wildcards.tf_version}}/{record}.failed"
    return f"rm -f {failed}; {RUN} || test {{resources.attempt}} -ge {{resources.tries}} -a -e {failed}"


NOTEBOOKS = {"run": "infer.ipynb", "eval": "evaluate.ipynb", "compat": "compat.ipynb"}


def give_up(kinds):
    """Say which runs came to no end, and let the next call repeat them."""
    failed = [Path(file) for model in MODELS for kind in kinds for file in glob(f"outputs/{model}/*/{kind}.json.failed")]
    for file in failed:
        notebook = NOTEBOOKS[file.name.partition(".")[0]]
        file.with_name(notebook).unlink(missing_ok=True)
    if failed:
        raise WorkflowError("\n".join(f"{file.parent} is missing: {file.read_text().strip()}" for file in failed))


HTML = (
    "jupyter nbconvert --to html --embed-images --CoalesceStreamsPreprocessor.enabled=True --log-level WARN"
    " --TemplateExporter.extra_template_basedirs=opensci_lib/reports --template pages"
)
REPORT = f"{RUN} && {HTML} {{output.notebook}}"


# These need a network, or are over in seconds.
localrules:
    all, evaluation, compat, docs, prepare, kernel, layer, engine, download, reference, hotfix, datasets,
    summary, evaluation_report, compat_report, family, html, index,


wildcard_constraints:
    model="|".join(map(re.escape, MODELS)),
    tf_version=r"[\d.]+",
    variant="|".join(VARIANTS),


rule all:
    input:
        expand(f"{OUT}/index.html", model=MODELS),
        "outputs/family.html" if len(MODELS) > 1 else [],
    run:
        give_up(NOTEBOOKS)


rule evaluation:
    input:
        expand(f"{OUT}/evaluation.html", model=MODELS),
    run:
        give_up(["eval"])


rule compat:
    input:
        expand(f"{OUT}/compatibility.html", model=MODELS),
    run:
        give_up(["compat"])


# What this project publishes: the built-in model on all locked releases, and the pages of the first and the last of them.
ENDS = (Reference().tf_version, available()[-1])
SHOWN = [f"{release}/{name}.html" for release in ENDS for name in ("infer", "evaluate", "compat")]


rule docs:
    input:
        "outputs/miniature/.pages",
        multiext("outputs/miniature/", "parity.csv", "evaluation.csv", "compat.csv"),
        reports=multiext("outputs/miniature/", "summary.html", "evaluation.html", "compatibility.html"),
    params:
        shown=SHOWN,
    shell:
        "cp {input.reports} docs/ && for name in parity evaluation compat; do cp outputs/miniature/$name.csv outputs/miniature/$name.png docs/; done"
        " && (cd outputs/miniature && cp --parents {params.shown} ../../docs/)"
        " && opensci index --output_dir docs --title 'opensci, the built-in model'"
        " && python docs/screenshots.py"


rule prepare:
    input:
        lambda wildcards: map(marker, every_release()),
        lambda wildcards: [marker(release, "evaluation") for release in every_release()],
        [marker(release, engine="vllm") for release in VLLM],
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


rule layer:
    input:
        branch(exists("environments/evaluation-{tf_version}.txt"), "environments/evaluation-{tf_version}.txt"),
        marker("{tf_version}"),
    output:
        marker("{tf_version}", "evaluation"),
    shell:
        "opensci kernels build {wildcards.tf_version} --layer evaluation"


rule engine:
    input:
        f"environments/{kernel_name('{tf_version}', 'vllm')}.txt",
    output:
        marker("{tf_version}", engine="vllm"),
    shell:
        "opensci kernels build {wildcards.tf_version} --engine vllm"


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


if REFERENCE == "auto":

    # What runs there are depends on it.
    checkpoint reference:
        input:
            f"{OUT}/original.json",
            folder(f"{OUT}/original"),
        output:
            f"{OUT}/reference.json",
        shell:
            "opensci reference --src_dir outputs/{wildcards.model}/original --json {output}"

else:

    rule reference:
        output:
            f"{OUT}/reference.json",
        params:
            named=quote(json.dumps(asdict(Reference(REFERENCE)))),
        shell:
            "echo {params.named} > {output}"


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
        reference_run,
        ancient(f"{OUT}/reference.json"),
        notebook="notebooks/infer.ipynb",
        kernel=marker("{tf_version}"),
        model=f"{OUT}/original.json",
        records=lambda wildcards: expand(f"{OUT}/{{variant}}.json", variant=variants(wildcards), allow_missing=True),
        folders=[folder(f"{OUT}/{variant}") for variant in VARIANTS],
        prompts=[prompt for prompt in config["prompts"] if prompt.endswith(".txt")],
    output:
        notebook=f"{OUT}/{{tf_version}}/infer.ipynb",
    params:
        parameters(
            **THIS_MODEL,
            variants=variants,
            reference=compared,
            **{key: config[key] for key in ("prompts", "prefill_chunk_size", "dtype", "device")},
            **{key: config[key] for key in ("attn_implementation", "max_new_tokens")},
        ),
    resources:
        mem_mb=memory(2000, 1.6),
        attempt=lambda wildcards, attempt: attempt,
        tries=1,
    shell:
        run_or_say("run.json")


# After the release's own runs, whose folder it shares.
rule infer_vllm:
    input:
        f"{OUT}/{{tf_version}}/infer.ipynb",
        notebook="notebooks/infer.ipynb",
        engine=marker("{tf_version}", engine="vllm"),
        model=f"{OUT}/original.json",
        folder=folder(f"{OUT}/fixed"),
        prompts=[prompt for prompt in config["prompts"] if prompt.endswith(".txt")],
    output:
        notebook=f"{OUT}/{{tf_version}}/infer-vllm.ipynb",
    params:
        parameters(
            **THIS_MODEL,
            **{key: config[key] for key in ("prompts", "dtype", "device", "max_new_tokens")},
            backend="vllm",
        ),
    resources:
        mem_mb=memory(6000, 4),
    shell:
        RUN


rule datasets:
    output:
        "outputs/datasets.txt",
    params:
        tasks=quote(",".join(TASKS)),
    shell:
        "opensci download --tasks {params.tasks} > {output}"


rule evaluate:
    input:
        DATASETS,
        ancient(f"{OUT}/reference.json"),
        notebook="notebooks/evaluate.ipynb",
        layer=marker("{tf_version}", "evaluation"),
        model=f"{OUT}/original.json",
        records=lambda wildcards: expand(f"{OUT}/{{variant}}.json", variant=variants(wildcards), allow_missing=True),
        folders=[folder(f"{OUT}/{variant}") for variant in VARIANTS],
    output:
        notebook=f"{OUT}/{{tf_version}}/evaluate.ipynb",
    params:
        parameters(
            **THIS_MODEL,
            variants=variants,
            **{key: config[key] for key in ("tasks", "num_fewshot", "limit", "batch_size", "too_long", "dtype", "device")},
        ),
    resources:
        mem_mb=memory(3000, 1.6),
        attempt=lambda wildcards, attempt: attempt,
        tries=1,
    shell:
        run_or_say("eval.json")


# After the release's own runs, whose folder it shares.
rule evaluate_vllm:
    input:
        DATASETS,
        f"{OUT}/{{tf_version}}/evaluate.ipynb",
        notebook="notebooks/evaluate.ipynb",
        engine=marker("{tf_version}", engine="vllm"),
        model=f"{OUT}/original.json",
        folder=folder(f"{OUT}/fixed"),
    output:
        notebook=f"{OUT}/{{tf_version}}/evaluate-vllm.ipynb",
    params:
        parameters(
            **THIS_MODEL,
            **{key: config[key] for key in ("tasks", "num_fewshot", "limit", "batch_size", "too_long", "dtype", "device")},
            backend="vllm",
        ),
    resources:
        mem_mb=memory(6000, 2),
        gpu=0,  # as many processes share the model
    shell:
        f"{RUN} -p tensor_parallel_size {{resources.gpu}}"


rule compat_reference:
    input:
        glob("opensci_lib/compat/**/*.py", recursive=True),
        "opensci_lib/runs/trace.py",
        folder(f"{OUT}/original"),
        f"{OUT}/reference.json",
        kernel=lambda wildcards: marker(reference(wildcards.model)),
        model=f"{OUT}/original.json",
    output:
        f"{OUT}/compat.safetensors",
    resources:
        mem_mb=memory(3000, 20),
    shell:
        "$(dirname {input.kernel})/bin/python -m opensci_lib.compat.reference outputs/{wildcards.model}/original {output}"


rule check_compat:
    input:
        f"{OUT}/compat.safetensors",
        notebook="notebooks/compat.ipynb",
        kernel=marker("{tf_version}"),
        model=f"{OUT}/original.json",
        records=expand(f"{OUT}/{{variant}}.json", variant=VARIANTS, allow_missing=True),
        folders=[folder(f"{OUT}/{variant}") for variant in VARIANTS],
    output:
        notebook=f"{OUT}/{{tf_version}}/compat.ipynb",
        results=f"{OUT}/{{tf_version}}/compat.json",
    params:
        parameters(**THIS_MODEL, compiled=compiled),
    resources:
        mem_mb=memory(3000, 20),
        attempt=lambda wildcards, attempt: attempt,
        tries=1,
    shell:
        run_or_say("compat.json")


rule summary:
    input:
        of_releases(f"{OUT}/{{tf_version}}/infer.ipynb"),
        f"{OUT}/reference.json",
        expand(f"{OUT}/{{tf_version}}/infer-vllm.ipynb", tf_version=VLLM, allow_missing=True),
        notebook="notebooks/summary.ipynb",
    output:
        multiext(f"{OUT}/", "parity.csv", "positions.csv", "summary.html"),
        notebook=f"{OUT}/summary.ipynb",
    params:
        parameters(**THIS_REPORT, runs=compared_runs),
    shell:
        REPORT


rule evaluation_report:
    input:
        of_releases(f"{OUT}/{{tf_version}}/evaluate.ipynb"),
        f"{OUT}/reference.json",
        expand(f"{OUT}/{{tf_version}}/evaluate-vllm.ipynb", tf_version=VLLM, allow_missing=True),
        notebook="notebooks/evaluation.ipynb",
    output:
        multiext(f"{OUT}/", "evaluation.csv", "changed_items.csv", "evaluation.html"),
        notebook=f"{OUT}/evaluation.ipynb",
    params:
        parameters(**THIS_REPORT, runs=compared_runs),
    shell:
        REPORT


rule compat_report:
    input:
        f"{OUT}/reference.json",
        lambda wildcards: expand(f"{OUT}/{{tf_version}}/compat.json", tf_version=checked_releases(wildcards), **wildcards),
        notebook="notebooks/compatibility.ipynb",
    output:
        multiext(f"{OUT}/", "compat.csv", "compatibility.html"),
        notebook=f"{OUT}/compatibility.ipynb",
    params:
        parameters(**THIS_REPORT, tf_versions=checked_releases),
    shell:
        REPORT


rule family:
    input:
        expand(f"{OUT}/parity.csv", model=MODELS),
        expand(f"{OUT}/evaluation.csv", model=MODELS),
        notebook="notebooks/family.ipynb",
    output:
        multiext("outputs/", "family.csv", "family_scores.csv", "family.html"),
        notebook="outputs/family.ipynb",
    params:
        parameters(output_dirs=[f"outputs/{model}" for model in MODELS]),
    shell:
        REPORT


# One start of nbconvert for all of a model's runs: it takes longer than the pages.
rule html:
    input:
        pages,
    output:
        touch(f"{OUT}/.pages"),
    shell:
        f"{HTML} {{input}}"


rule index:
    input:
        f"{OUT}/.pages",
        f"{OUT}/summary.html",
        f"{OUT}/evaluation.html",
        f"{OUT}/compatibility.html" if switched_on("compat") else [],
    output:
        f"{OUT}/index.html",
        f"{OUT}/manifest.json",
    shell:
        "opensci index --output_dir outputs/{wildcards.model} && opensci verify outputs/{wildcards.model} --write"
