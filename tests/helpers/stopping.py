"""A training that is interrupted."""

import signal

from neuralgraph.training import Watcher


class StopAfter(Watcher):
    """Sends this process a signal after some steps, of however many runs."""

    def __init__(self, steps, number=signal.SIGINT):
        self.steps, self.number = steps, number

    def stepped(self, run, images, loss, accuracy):
        self.steps -= 1
        if self.steps == 0:
            signal.raise_signal(self.number)
