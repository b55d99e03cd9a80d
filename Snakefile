# The whole pipeline on one page, in the order in which data flows:
# kernel environments, model, hotfix, one papermill run per release and variant, summary, HTML.
#
#   uv run snakemake                                                       everything, on the built-in model
#   uv run snakemake --config model=ORG/NAME 'tf_versions=["4.48.0","5.23.0"]'

import json
from shlex import quote

from opensci_lib.kernels import marker
from opensci_lib.variants import VARIANTS, model_name, releases_and_variants


configfile: "config.yaml"


MODEL = config["model"]
REVISION = config["revision"] or None
OUT = f"outputs/{model_name(MODEL, REVISION)}"
REFERENCE = "4.48.0"
RUNS = [f"{release}/{variant}" for release, variant in releases_and_variants([REFERENCE, *config["tf_versions"]])]


def papermill_parameters(**parameters):
    """JSON is YAML: one quoted argument for `papermill -y` carries strings, lists and nulls unharmed."""
    return quote(json.dumps(parameters))


wildcard_constraints:
    tf_version=r"[\d.]+",
    variant="|".join(VARIANTS),


rule all:
    input:
        f"{OUT}/summary.html",
        expand(f"{OUT}/{{run}}/infer.html", run=RUNS),


rule kernel:
    input:
        branch(exists("environments/transformers-{tf_version}.txt"), "environments/transformers-{tf_version}.txt"),
    output:
        marker("{tf_version}"),
    shell:
        "opensci kernels build {wildcards.tf_version}"


rule download:
    input:
        marker(REFERENCE),
    output:
        f"{OUT}/original.json",
    params:
        model=quote(MODEL),
        revision=f"--revision {quote(REVISION)}" if REVISION else "",
    shell:
        "opensci download {params.model} {params.revision} --local_dir {OUT}/original"
        " && cp {OUT}/original/download.json {output}"


rule hotfix:
    input:
        f"{OUT}/original.json",
    output:
        f"{OUT}/{{variant}}.json",
    params:
        rules=lambda wildcards: f"--rules {','.join(rules)}" if (rules := VARIANTS[wildcards.variant]) else "",
    shell:
        "opensci hotfix --src_dir {OUT}/original --dst_dir {OUT}/{wildcards.variant} {params.rules}"
        " && cp {OUT}/{wildcards.variant}/hotfix.json {output}"


rule infer:
    input:
        notebook="notebooks/infer.ipynb",
        kernel=marker("{tf_version}"),
        folder=f"{OUT}/{{variant}}.json",
    output:
        notebook=f"{OUT}/{{tf_version}}/{{variant}}/infer.ipynb",
        capture=f"{OUT}/{{tf_version}}/{{variant}}/capture.safetensors",
        record=f"{OUT}/{{tf_version}}/{{variant}}/run.json",
    params:
        lambda wildcards: papermill_parameters(
            tf_version=wildcards.tf_version,
            model=MODEL,
            revision=REVISION,
            variant=wildcards.variant,
            prompts=config["prompts"],
            dtype=config["dtype"],
            device=config["device"],
            attn_implementation=config["attn_implementation"],
            max_new_tokens=config["max_new_tokens"],
        ),
    shell:
        "papermill {input.notebook} {output.notebook} -y {params}"


rule summary:
    input:
        runs=expand(f"{OUT}/{{run}}/run.json", run=RUNS),
        captures=expand(f"{OUT}/{{run}}/capture.safetensors", run=RUNS),
        notebook="notebooks/summary.ipynb",
    output:
        notebook=f"{OUT}/summary.ipynb",
        parity=f"{OUT}/parity.csv",
        positions=f"{OUT}/positions.csv",
    params:
        papermill_parameters(output_dir=OUT, runs=RUNS, reference=f"{REFERENCE}/original"),
    shell:
        "papermill {input.notebook} {output.notebook} -y {params}"


rule html:
    input:
        "{folder}/{notebook}.ipynb",
    output:
        "{folder}/{notebook}.html",
    shell:
        "jupyter nbconvert --to html --embed-images --CoalesceStreamsPreprocessor.enabled=True --log-level WARN"
        " --TemplateExporter.extra_template_basedirs=notebooks --template report {input}"
