"""Two runs of one prompt side by side, each computed under its own release, for playing in JupyterLab."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import Markdown

from opensci_lib import kernels
from opensci_lib.bisect import PROMPT
from opensci_lib.errors import OpensciError
from opensci_lib.reports import figures
from opensci_lib.reports.compare import Run, compare_positions, verdict
from opensci_lib.reports.tables import table
from opensci_lib.runs import VARIANTS, results_folder
from opensci_lib.runs.probe import probe
from opensci_lib.runs.reference import reference_of
from opensci_lib.runs.variants import variant_folder

#: A run to be looked at: a release and a variant.
Choice = tuple[str, str]


def side_by_side(
    model: str, prompt: str, choices: list[Choice], output: Path, max_new_tokens: int = 16
) -> list[Run | str]:
    """Complete a prompt under each of some releases and variants, at once, and return the runs.

    Args:
        model: a Hub id, a local folder, or the miniature.
        prompt: the text.
        choices: (release, variant) of each run.
        output: an existing folder for what the runs leave.
        max_new_tokens: of each completion.

    Returns:
        The runs, in order; in the place of one that failed, what it said.

    """
    folders = {variant: variant_folder(model, variant) for variant in dict.fromkeys(name for _, name in choices)}

    def run(number: int) -> Run | str:
        release, variant = choices[number]
        place = output / str(number)
        place.mkdir()
        return probe(folders[variant], release, prompt, place, variant, max_new_tokens) or Run(place)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, range(len(choices))))


def positions(left: Run, right: Run) -> pd.DataFrame:
    """Return a row a position: its token, the likeliest next token in both runs, and how far their logits part."""
    compared = compare_positions(left.capture, right.capture, 0)
    return pd.DataFrame(
        {
            "position": compared["position"],
            "token": left.record["tokens"][0],
            "next, left": left.record["likeliest"],
            "next, right": right.record["likeliest"],
            "logits equal": compared["bitwise_equal"],
            "max_abs_diff": compared["max_abs_diff"],
        }
    )


def findings(choices: list[Choice], runs: list[Run | str]) -> list[Any]:
    """Return what is shown of two runs: sentences, a table and figures."""
    names = [f"{variant} on {release}" for release, variant in choices]
    failed = [f"**{name}** failed: {run}" for name, run in zip(names, runs, strict=True) if isinstance(run, str)]
    if failed:
        return [Markdown("\n\n".join(failed))]
    left, right = (run for run in runs if isinstance(run, Run))
    said = [f"**{name}**: {run.record['completions'][0]}" for name, run in zip(names, (left, right), strict=True)]
    outcome = verdict(left, right, 0).replace("the reference", names[0])
    sides = {"left": left, "right": right}
    best = {side: run.record["top_tokens"][0] for side, run in sides.items()}
    return [
        Markdown("\n\n".join([f"{names[1]}: {outcome}.", *said])),
        figures.top_tokens(best),
        figures.rotary({side: run.capture for side, run in sides.items()}, 0),
        table(positions(left, right)),
    ]


class Explorer(widgets.VBox):
    """A prompt, two releases, two variants, a button; below, what both computed. Nothing waits for the runs."""

    def __init__(self, model: str = "miniature", prompt: str = PROMPT):
        releases = kernels.available()
        reference = reference_of(results_folder(model)).tf_version
        self._model = model
        self.prompt = widgets.Textarea(prompt, description="prompt", layout={"width": "100%"})
        self.releases = [
            widgets.Dropdown(options=releases, value=value, description=side)
            for side, value in (("left", reference), ("right", releases[-1]))
        ]
        self.variants = [widgets.Dropdown(options=list(VARIANTS), value=value) for value in ("original", "fixed")]
        self.button = widgets.Button(description="Compute", button_style="primary")
        self.status = widgets.Label()
        self.shown = widgets.Output()
        self.button.on_click(lambda _: self.compute())
        for choice in (self.prompt, *self.releases, *self.variants):
            choice.observe(lambda _: self._forget(), "value")
        sides = [widgets.HBox(side) for side in zip(self.releases, self.variants, strict=True)]
        super().__init__([self.prompt, *sides, widgets.HBox([self.button, self.status]), self.shown])

    @property
    def choices(self) -> list[Choice]:
        """What is chosen: (release, variant) on the left and on the right."""
        return [(release.value, variant.value) for release, variant in zip(self.releases, self.variants, strict=True)]

    def compute(self) -> Thread:
        """Start both runs and return the thread that shows them when they are done."""
        self._forget()
        self.button.disabled = True
        self.status.value = "Computing …"
        thread = Thread(target=self._compute, args=(self.prompt.value, self.choices), daemon=True)
        thread.start()
        return thread

    def _compute(self, prompt: str, choices: list[Choice]) -> None:
        with tempfile.TemporaryDirectory(prefix="opensci-explore-") as place:
            try:
                shown = findings(choices, side_by_side(self._model, prompt, choices, Path(place)))
            except OpensciError as error:
                shown = [Markdown(error.message)]
            finally:
                self.button.disabled = False
                self.status.value = ""
            if (prompt, choices) == (self.prompt.value, self.choices):  # or else it would be stale
                for part in shown:
                    self.shown.append_display_data(part)

    def _forget(self) -> None:
        """Take away what is shown: it belongs to other choices."""
        self.shown.outputs = ()
