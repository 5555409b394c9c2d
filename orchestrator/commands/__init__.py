"""The commands of the command line, one file each: `arguments(parser)` declares, `main(args)` does
and returns the exit code."""
