"""``python -m neuralgraph``, which torchrun can start."""

from .cli import main

main(prog_name="neuralgraph")
