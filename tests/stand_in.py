"""Environments of transformers releases without transformers: their Python is a few lines of shell.

A release's lines say what its Python does; `$1` and so on are its arguments. What was called is noted.
"""

from pathlib import Path

from opensci_lib import project

_UV = """#!/bin/sh
[ "$1" = venv ] || exit 0
for last; do :; done
mkdir -p "$last/bin"
cat > "$last/bin/python" << 'END'
#!/bin/sh
release=$(basename "$(dirname "$(dirname "$0")")")
echo "${release#transformers-}" >> "$STAND_IN/calls"
. "$STAND_IN/$release.sh"
END
chmod +x "$last/bin/python"
"""


class StandIn:
    """Releases and what their Python does, below `place`."""

    def __init__(self, place: Path, monkeypatch):
        self._place = place
        (place / "environments").mkdir(parents=True)
        (place / "uv").write_text(_UV)
        (place / "uv").chmod(0o755)
        monkeypatch.setenv("UV", str(place / "uv"))
        monkeypatch.setenv("STAND_IN", str(place))
        for folder in ("LOCKS", "ENVIRONMENTS"):
            monkeypatch.setattr(project, folder, place / "environments")
        monkeypatch.setattr(project, "kernelspecs", lambda: place / "kernels")

    def add(self, release: str, shell: str, engine: str = "transformers") -> None:
        """Add a locked release, or an engine that is locked with it."""
        (self._place / "environments" / f"{engine}-{release}.txt").touch()
        (self._place / f"{engine}-{release}.sh").write_text(shell)

    @property
    def calls(self) -> list[str]:
        """The releases whose Python was called, in order."""
        calls = self._place / "calls"
        return calls.read_text().split() if calls.exists() else []
