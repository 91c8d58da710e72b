"""`python -m recviz` is the `recviz` command."""

from recviz.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
