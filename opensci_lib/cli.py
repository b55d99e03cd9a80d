"""The console script `opensci`: each command is a skin over one public function with the same argument names."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from opensci_lib.errors import Commands, OpensciError
from opensci_lib.miniature import MODEL


def _built_in(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Let `miniature`, where no folder has that name, stand for the built-in model."""
    return str(MODEL) if path == "miniature" and not Path(path).exists() else path


def _named(path: str) -> str:
    """Return what a user calls a folder: `miniature` for the built-in model."""
    return "miniature" if path == str(MODEL) else path


_model_path = click.option(
    "--model_path",
    required=True,
    type=click.Path(),
    callback=_built_in,
    help="A model folder, or `miniature`; it is run exactly as it is.",
)

_with = click.option(
    "--with", "packages", multiple=True, help="A package that the folder's code needs; may be given more than once."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="opensci-lib")
def main() -> None:
    """Run the open-sci-ref language models, bit for bit the same, on every transformers release."""


@main.command(epilog="Example: opensci download open-sci/open-sci-ref-v0.01-1.3b-c4-1T-4096 --local_dir model")
@click.argument("model", required=False)
@click.option("--revision", help="A branch, tag or commit on the Hub.")
@click.option("--local_dir", type=click.Path(), help="Where to put it instead of the Hub's cache.")
@click.option("--tasks", help="Bring the datasets of these evaluation tasks instead, with commas: open-sci-0.01, …")
def download(model: str | None, revision: str | None, local_dir: str | None, tasks: str | None) -> None:
    """Bring MODEL to this machine: a Hub id, a local folder, or `miniature`, the built-in model."""
    from opensci_lib import kernels
    from opensci_lib.download import download

    if tasks is not None:
        if find_spec("lm_eval") is None:  # outside the layer: as with `infer`, in a kernel environment
            release = kernels.available()[-1]
            words = ["download", "--tasks", tasks]
            sys.exit(kernels.run(release, "-m", "opensci_lib", *words, layer="evaluation").returncode)
        from opensci_lib.evaluation import fetch

        click.echo(f"Here: {', '.join(fetch(tasks.split(',')))}")
        return
    if model is None:
        raise click.UsageError("Give a MODEL, or --tasks for the datasets of an evaluation.")
    found = download(model, revision, local_dir)
    click.echo(f"{found.path}" + (f" (commit {found.commit})" if found.commit else ""))


@main.command(epilog="Example: opensci hotfix --src_dir model --diff")
@click.option(
    "--src_dir",
    type=click.Path(),
    callback=_built_in,
    help="The model folder to fix, or `miniature`; it is not changed.",
)
@click.option("--dst_dir", type=click.Path(), help="Where to write it; default: SRC_DIR_fixed, without dots.")
@click.option("--rules", help="Ids of the rules to apply, with commas; default: all.")
@click.option("--since", help="Apply only the rules that this release or a later one needs.")
@click.option("--only", help="Apply only the rules that these releases need, with commas: 5.2,5.23.")
@click.option("--diff", is_flag=True, help="Print what would change and write nothing.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if something would change.")
@click.option("--force", is_flag=True, help="Apply the other rules where one refuses; it may be silently wrong then.")
@click.option("--code_from", help="A folder or Hub id whose code completes a folder without, such as a merge.")
@click.option("--list", "list_rules", is_flag=True, help="List the rules.")
def hotfix(
    src_dir: str | None,
    dst_dir: str | None,
    rules: str | None,
    since: str | None,
    only: str | None,
    diff: bool,
    check: bool,
    force: bool,
    code_from: str | None,
    list_rules: bool,
) -> None:
    """Write a copy of a model folder that loads and computes right on every transformers release."""
    from opensci_lib.hotfix import all_rules, hotfix
    from opensci_lib.hotfix.proofs import proof_of
    from opensci_lib.model_folder import read_config, tied_twice

    if list_rules:
        for rule in all_rules():
            answers = f" ({', '.join(rule.trf)})" if rule.trf else ""
            click.echo(f"{rule.id}{answers}\n  releases: {rule.releases}\n  {rule.cause}")
        return
    if src_dir is None:
        raise click.UsageError("Give the model folder with --src_dir, or --list for the rules.")
    chosen, releases = ([word.strip() for word in words.split(",")] if words else None for words in (rules, only))
    if src_dir == str(MODEL):
        dst_dir = dst_dir or "miniature_fixed"  # not in the package
    outcome = hotfix(
        src_dir,
        dst_dir,
        rules=chosen,
        dry_run=diff or check,
        force=force,
        code_from=code_from,
        since=since,
        only=releases,
    )
    if diff:
        click.echo(outcome.diff, nl=False)
    if check:
        sys.exit(bool(outcome.applied))
    if diff:
        return
    for rule, file in outcome.applied.items():
        click.echo(f"{rule}: {file}")
    if not outcome.applied:
        click.echo(f"{outcome.dst_dir}: needs nothing, it was fixed before")
        return
    for said in filter(None, (outcome.left_out, tied_twice(Path(outcome.dst_dir)))):
        click.echo(said)
    counts = ", ".join(f"{count} files {how}" for how, count in outcome.files.items())
    click.echo(f"{outcome.dst_dir}: " + (f"written ({counts})" if outcome.written else "up to date, nothing written"))
    config = read_config(Path(outcome.dst_dir))
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    click.echo(
        "Load it with a dtype; without one, 4.x takes float32 and 5.x what config.json names:\n"
        f'AutoModelForCausalLM.from_pretrained("{outcome.dst_dir}", trust_remote_code=True, dtype=torch.{dtype})'
        "  # torch_dtype= before 4.56"
    )
    if proof := proof_of(Path(outcome.dst_dir)):
        click.echo(f"proven on {len(proof['releases'])} releases from {proof['reference']} on ({proof['date']})")
    else:
        click.echo(f"not proven: run `opensci prove --src_dir {_named(src_dir)}`")


@main.command(epilog="Example: opensci check --model_path model_fixed --tf_version 5.23.0")
@_model_path
@click.option("--tf_version", help="The transformers release; by default the one installed here.")
@click.option("--dtype", default="float32", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--attn_implementation", help="sdpa or eager; default: what the release chooses.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@_with
def check(
    model_path: str,
    tf_version: str | None,
    dtype: str,
    attn_implementation: str | None,
    as_json: bool,
    packages: tuple[str, ...],
) -> None:
    """Say whether a model folder is right under a release, without a reference; its own code is run.

    Exits with 1 where a check finds a fault.
    """
    from opensci_lib.model_folder import announce

    if tf_version is not None:
        from opensci_lib import kernels

        words = ["--model_path", model_path, "--dtype", dtype, *(["--json"] if as_json else [])]
        words += ["--attn_implementation", attn_implementation] if attn_implementation else []
        sys.exit(kernels.run(tf_version, "-m", "opensci_lib", "check", *words, packages=packages).returncode)
    if packages:
        raise OpensciError("--with adds packages to a kernel environment: name its release with --tf_version.")
    if find_spec("transformers") is None:
        raise OpensciError("transformers is not installed in this environment: give a release with --tf_version.")

    from importlib.metadata import version

    from opensci_lib.check import check

    click.echo(announce(model_path, f"transformers {version('transformers')}"), err=True)
    report = check(model_path, dtype=dtype, attn_implementation=attn_implementation)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for finding in report.findings:
            known = f" (rule {', '.join(finding.rules)})" if finding.rules else ""
            click.echo(f"{finding.check:12}{finding.fault or 'ok'}{known}")
    sys.exit(not report.is_right)


@main.command(epilog="Example: opensci publish --src_dir model_fixed --dry_run")
@click.option(
    "--src_dir", "src_dirs", required=True, multiple=True, type=click.Path(), help="A fixed folder; may be repeated."
)
@click.option("--repo_id", help="ORG/NAME on the Hub; default: where the model was downloaded from.")
@click.option("--revision", help="The branch that the pull request is for; default: that of the download, or main.")
@click.option("--create_pr", is_flag=True, help="Open a pull request: the default.")
@click.option("--branch", help="Commit to this branch instead; it is made where there is none.")
@click.option("--mirror", is_flag=True, help="Make a repository of your own, REPO_ID, of the whole folder instead.")
@click.option("--dry_run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("--yes", is_flag=True, help="Send without asking.")
@click.option("--unproven", is_flag=True, help="Send a folder that `opensci prove` has not passed; it says so.")
def publish(
    src_dirs: tuple[str, ...],
    repo_id: str | None,
    revision: str | None,
    create_pr: bool,
    branch: str | None,
    mirror: bool,
    dry_run: bool,
    yes: bool,
    unproven: bool,
) -> None:
    """Send what the hotfix changed to the model's repository as a pull request, once it was shown and agreed to."""
    from opensci_lib.publish import Parcel, publish

    if create_pr + bool(branch) + mirror > 1:
        raise click.UsageError("--create_pr, --branch and --mirror exclude one another.")
    if len(src_dirs) > 1 and repo_id:
        raise click.UsageError("Several folders go to several repositories: leave --repo_id out.")

    def agreed(parcel: Parcel) -> bool:
        click.echo(parcel.shown())
        return not parcel.outcome and not dry_run and (yes or click.confirm(f"Send this to {parcel.repo_id}?"))

    outcomes = [
        *publish(
            src_dirs, agreed, repo_id=repo_id, revision=revision, branch=branch, mirror=mirror, unproven=unproven
        )
    ]
    [(_, words, well), *others] = outcomes
    if not others and not well:
        raise OpensciError(words)
    width = max(len(folder) for folder, _, _ in outcomes)
    for folder, words, _ in outcomes:
        click.echo(f"{folder:{width}}  {words}")
    sys.exit(not all(well for _, _, well in outcomes))


@main.command(epilog="Example: opensci prove --src_dir model --tf_versions 4.48.0,5.0.0,5.23.0")
@click.option(
    "--src_dir", required=True, type=click.Path(), callback=_built_in, help="A model folder, or `miniature`."
)
@click.option("--tf_versions", help="The releases, with commas; default: all that have a lock file.")
@click.option("--weights", is_flag=True, help="Prove it with its own weights, not as a small twin with random ones.")
@click.option("--csv", type=click.Path(), help="Also write the table to a file.")
@_with
def prove(src_dir: str, tf_versions: str | None, weights: bool, csv: str | None, packages: tuple[str, ...]) -> None:
    """Hotfix a decoder and compare it on every release with the unmodified one on its reference; its code is run.

    The reference is the oldest release on which the unmodified folder loads and repeats itself. Exits with 1 where a
    release from there on is not equal.
    """
    from opensci_lib.hotfix.proofs import keep_proof
    from opensci_lib.model_folder import announce
    from opensci_lib.prove import prove

    click.echo(announce(src_dir, "the kernel environments of these releases"), err=True)
    releases = [word.strip() for word in tf_versions.split(",")] if tf_versions else None
    proof = prove(src_dir, releases, weights, packages, report=lambda line: click.echo(line, err=True))
    click.echo(proof.table().to_string(index=False))
    click.echo(f"Reference {proof.reference}; equal on {len(proof.releases)} of {len(proof.outcomes)} releases.")
    if csv:
        proof.table().to_csv(csv, index=False)
    command = f"opensci prove --src_dir {_named(src_dir)}" + (f" --tf_versions {tf_versions}" if tf_versions else "")
    command += "".join(f" --with {name}" for name in packages)
    for folder in (Path(src_dir), Path(src_dir).absolute().with_name(f"{Path(src_dir).name}_fixed")):
        if keep_proof(folder, proof.record(command)):
            click.echo(f"Recorded in {folder}/hotfix.json.")
    sys.exit(not proof.is_proven)


@main.command(epilog="Example: opensci reference --src_dir model --json reference.json")
@click.option(
    "--src_dir", required=True, type=click.Path(), callback=_built_in, help="A model folder, or `miniature`."
)
@click.option("--tf_versions", help="The releases to try, with commas; default: all that have a lock file.")
@click.option("--weights", is_flag=True, help="Try the folder with its own weights, not as a small twin.")
@click.option("--json", "path", type=click.Path(), help="Also write it to a file.")
@_with
def reference(
    src_dir: str, tf_versions: str | None, weights: bool, path: str | None, packages: tuple[str, ...]
) -> None:
    """Find the oldest release on which an unmodified folder loads and repeats itself; its code is run."""
    from opensci_lib.model_folder import announce
    from opensci_lib.prove import find_reference

    click.echo(announce(src_dir, "the kernel environments of these releases"), err=True)
    releases = [word.strip() for word in tf_versions.split(",")] if tf_versions else None
    found = find_reference(src_dir, releases, weights, packages, report=lambda line: click.echo(line, err=True))
    if path:
        found.save(path)
    click.echo(found.tf_version)


@main.command("random-model", epilog="Example: opensci random-model --like model --dst_dir twin --tf_version 4.48.0")
@click.option("--like", required=True, help="A model folder, a Hub id, or `miniature`; weights are not needed.")
@click.option("--dst_dir", required=True, type=click.Path(), help="The folder to make.")
@click.option("--tf_version", required=True, help="The release under which it is made: its reference.")
def random_model(like: str, dst_dir: str, tf_version: str) -> None:
    """Write a small twin of a decoder: its code, a configuration cut down, random weights; its code is run."""
    from opensci_lib import kernels
    from opensci_lib.download import code
    from opensci_lib.model_folder import announce

    folder, _ = code(like)
    click.echo(announce(folder, f"transformers {tf_version}"), err=True)
    sys.exit(kernels.run(tf_version, "-m", "opensci_lib.twin", folder, dst_dir).returncode)


@main.command(epilog="Example: opensci bisect --model_path model --good 4.48.0 --bad 5.23.0")
@_model_path
@click.option("--good", help="A release that is right; default: the oldest with a lock file.")
@click.option("--bad", help="A release that is wrong; default: the newest with a lock file.")
def bisect(model_path: str, good: str | None, bad: str | None) -> None:
    """Find the first release whose logits, or loading, part from the good one's, and the rule that knows why."""
    from opensci_lib.bisect import bisect

    found = bisect(model_path, good, bad, report=click.echo)
    click.echo(f"First bad release: {found.first_bad} (last good: {found.last_good})")
    click.echo(f"There: {found.what}")
    click.echo(f"Rules that know this: {', '.join(found.rules) or 'none'}")


@main.command(epilog="Example: opensci infer --model_path miniature --tf_version 5.23.0 --prompt 'The capital of'")
@_model_path
@click.option("--tf_version", help="The transformers release; by default the one installed here.")
@click.option("--prompt", default="The capital of France is", show_default=True)
@click.option("--max_new_tokens", default=16, show_default=True, type=click.IntRange(1))
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--attn_implementation", default="sdpa", show_default=True, help="sdpa or eager.")
def infer(
    model_path: str,
    tf_version: str | None,
    prompt: str,
    max_new_tokens: int,
    dtype: str,
    device: str,
    attn_implementation: str,
) -> None:
    """Complete a prompt, in the kernel environment of the release given, and print release and completion."""
    if tf_version is not None:
        from opensci_lib import kernels

        options = {
            "--model_path": model_path,
            "--prompt": prompt,
            "--max_new_tokens": str(max_new_tokens),
            "--dtype": dtype,
            "--device": device,
            "--attn_implementation": attn_implementation,
        }
        words = [word for option in options.items() for word in option]
        sys.exit(kernels.run(tf_version, "-m", "opensci_lib", "infer", *words).returncode)
    if find_spec("transformers") is None:
        raise OpensciError("transformers is not installed in this environment: give a release with --tf_version.")

    import transformers

    from opensci_lib import shim
    from opensci_lib.generate import generate

    if transformers.__version__.startswith("4."):
        shim.apply()  # an unmodified folder may need it, a fixed one does not notice
    run = generate(
        model_path,
        [prompt],
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )
    click.echo(f"transformers {transformers.__version__}")
    click.echo(run.completions[0])


@main.command(epilog="Example: opensci evaluate --model_path miniature --tf_version 5.23.0 --tasks opensci_facts")
@_model_path
@click.option("--tf_version", help="The transformers release; by default the one installed here.")
@click.option("--tasks", help="Names, open-sci-0.01, YAML files, with commas; default: four without download.")
@click.option("--num_fewshot", type=click.IntRange(0), help="Examples before each item; default: what the task says.")
@click.option("--limit", type=click.IntRange(1), help="Score only the first items of each task.")
@click.option("--batch_size", default=8, show_default=True, type=click.IntRange(1), help="Halved where memory ends.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …; vLLM has its own.")
@click.option("--too_long", default="refuse", show_default=True, help="refuse, truncate or skip such items.")
@click.option("--backend", default="hf", show_default=True, type=click.Choice(["hf", "vllm"]), help="What runs it.")
@click.option(
    "--tensor_parallel_size", type=click.IntRange(1), help="Processes of vLLM that share it; default: one a GPU."
)
@click.option("--output_dir", type=click.Path(), help="Keep every item here, and go on with a run broken off.")
@click.option("--json", "as_json", is_flag=True, help="Print what eval.json holds: settings, versions, scores.")
def evaluate(
    tf_version: str | None,
    model_path: str,
    tasks: str | None,
    output_dir: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a model folder by lm-evaluation-harness and print its scores; its own code is run."""
    if tf_version is not None:
        from opensci_lib import kernels

        engine = "vllm" if options["backend"] == "vllm" else "transformers"
        named = {"model_path": model_path, "tasks": tasks, "output_dir": output_dir, **options}
        words = [word for name, value in named.items() if value is not None for word in (f"--{name}", value)]
        words += ["--json"] if as_json else []
        done = kernels.run(tf_version, "-m", "opensci_lib", "evaluate", *words, layer="evaluation", engine=engine)
        sys.exit(done.returncode)
    if find_spec("transformers") is None:
        raise OpensciError("transformers is not installed in this environment: give a release with --tf_version.")

    from importlib.metadata import version

    from opensci_lib import shim
    from opensci_lib.evaluation import evaluate
    from opensci_lib.model_folder import announce
    from opensci_lib.reports.scores import Evaluation, stated
    from opensci_lib.scratch import scratch

    release = version("transformers")
    click.echo(announce(model_path, f"transformers {release}"), err=True)
    if release.startswith("4."):
        shim.apply()  # as in `infer`
    # What libraries and their processes print, until they end, goes to standard error: here is the answer alone.
    with (
        os.fdopen(os.dup(1), "w", encoding="utf-8") as answer,
        nullcontext(Path(output_dir)) if output_dir else scratch() as output,
    ):
        os.dup2(2, 1)
        output.mkdir(parents=True, exist_ok=True)
        results = evaluate(model_path, output, tasks.split(",") if tasks else None, **options)
        scores = stated([Evaluation(output, release, options["backend"])])
        click.echo(json.dumps(results, indent=2) if as_json else scores.to_string(index=False), file=answer)


@main.command(epilog="Example: opensci doctor")
def doctor() -> None:
    """Say what this machine has of what is needed; exit with 1 if uv, without which nothing is built, is missing."""
    from opensci_lib.doctor import doctor

    findings = doctor()
    for finding in findings:
        click.echo(f"{finding.what:13}{finding.found}" + (f"\n{'':13}→ {finding.cure}" if finding.cure else ""))
    sys.exit(any(finding.what == "uv" and finding.cure for finding in findings))


@main.command(epilog="Example: opensci index --output_dir outputs/miniature")
@click.option("--output_dir", required=True, type=click.Path(), help="A model's folder of results, outputs/<model>.")
@click.option("--title", help="What the page is headed with; default: the folder's name.")
def index(output_dir: str, title: str | None) -> None:
    """Write the page that links a model's reports, notebooks and data."""
    from opensci_lib.reports.index import index

    click.echo(index(output_dir, title))


@main.command(epilog="Example: opensci verify outputs/miniature")
@click.argument("output_dir", type=click.Path())
@click.option("--write", is_flag=True, help="Write the manifest of what is there, as the pipeline does at its end.")
def verify(output_dir: str, write: bool) -> None:
    """Compare a model's results with their manifest, and every table with what its runs say."""
    from opensci_lib.reports.verify import verify, write_manifest

    if write:
        click.echo(write_manifest(output_dir))
        return
    outcome = verify(output_dir)
    for difference in outcome.differences:
        click.echo(difference)
    looked_at = f"{outcome.files} files and {', '.join(outcome.tables) or 'no table'}"
    if outcome.differences:
        raise OpensciError(f"{output_dir}: {len(outcome.differences)} differences in {looked_at}.")
    click.echo(f"{looked_at}: all is as it was, and as the runs say.")


@main.group()
def kernels() -> None:
    """Environments and Jupyter kernels, one for each transformers release."""


@kernels.command(epilog="Example: opensci kernels build 4.48.0 5.23.0 --layer evaluation")
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True)
@click.option("--layer", help="Also install a layer: evaluation, for lm-evaluation-harness.")
@click.option("--engine", default="transformers", show_default=True, help="What runs models: transformers or vllm.")
def build(versions: tuple[str, ...], layer: str | None, engine: str) -> None:
    """Build the environments of these releases and register their kernels."""
    from opensci_lib import kernels

    for version in versions:
        click.echo(kernels.build(version, layer, engine))


@kernels.command("list", epilog="Example: opensci kernels list")
def list_kernels() -> None:
    """List the releases that have a lock file, and those whose environment is built."""
    from opensci_lib import kernels

    built = kernels.installed()
    for version in kernels.available():
        click.echo(f"{version} built" if version in built else version)
    for version in built:
        if version not in kernels.available():
            click.echo(f"{version} built, without a lock file")


@kernels.command(epilog="Example: opensci kernels remove 4.49.0")
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True)
def remove(versions: tuple[str, ...]) -> None:
    """Delete the environments and kernels of these releases; their lock files stay."""
    from opensci_lib import kernels

    for version in versions:
        kernels.remove(version)


@kernels.command(epilog="Example: opensci kernels lock 5.24.0")
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True)
@click.option("--engine", default="transformers", show_default=True, help="What runs models: transformers or vllm.")
def lock(versions: tuple[str, ...], engine: str) -> None:
    """Resolve and write the lock files of these releases, also of new ones."""
    from opensci_lib import kernels

    for version in versions:
        click.echo(kernels.lock(version, engine))
