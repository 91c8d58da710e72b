"""The subcommands of `recviz`, one module each with `run(argv)`."""
