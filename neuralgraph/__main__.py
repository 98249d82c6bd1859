"""``python -m neuralgraph``, which torchrun can start."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="neuralgraph")
