"""A training as a notebook shows it while it goes."""

from __future__ import annotations

import importlib
import sys
import time

from .._html import text
from .progress import metrics_table

EVERY = 0.2  # seconds between two pictures of a bar
LAST = 8  # epochs shown


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """A bar and the metrics of the last epochs, as one output of a cell that is brought up to date.

    It has those methods of a bar of tqdm's that are used here. Nothing is printed, so that the output of a long
    training is not longer than that of a short one, and what a notebook is saved with is how the training stood.

    Args:
        total, initial: how many there are, and are done.
        unit: of them.
    """

    def __init__(self, total: int, initial: int = 0, unit: str = "step"):
        self.total, self.n, self.unit = total, initial, unit
        self._description, self._postfix = "", ""
        self._rows: list[dict] = []
        self._first, self._began, self._shown = initial, time.monotonic(), 0.0
        display = importlib.import_module("IPython.display").display
        self._handle = display(self._content(), raw=True, display_id=True)

    def set_description(self, description: str, refresh: bool = True) -> None:
        self._description = description

    def set_postfix_str(self, postfix: str, refresh: bool = True) -> None:
        self._postfix = postfix

    def update(self, number: int = 1) -> None:
        self.n += number
        if time.monotonic() - self._shown >= EVERY:
            self.show()

    def add_row(self, row: dict) -> None:
        """Shows the metrics of one more epoch."""
        self._rows = [*self._rows[-LAST + 1:], row]
        self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        self._handle.update(self._content(), raw=True)

    close = show

    def _content(self) -> dict[str, str]:
        done, seconds = self.n - self._first, time.monotonic() - self._began
        words = [self._description, f"{self.n:,} of {self.total:,} {self.unit}s", self._postfix]
        if done and self.n < self.total:
            words.append(f"{_clock((self.total - self.n) * seconds / done)} left")
        else:
            words.append(f"{_clock(seconds)}")
        line = ", ".join(filter(None, words))
        bar = f'<progress value="{self.n}" max="{max(1, self.total)}" style="width:280px"></progress>'
        return {"text/plain": line, "text/html": f"<div>{bar} {text(line)}</div>"
                + (metrics_table(self._rows) if self._rows else "")}


def _clock(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> _clock(75), _clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
