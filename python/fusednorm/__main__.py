"""The command line: ``python -m fusednorm``."""

import argparse
import sys

from fusednorm import __version__
from fusednorm.commands import console, stats


def main() -> int:
    """Run the command that the arguments name, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fusednorm",
        description="Show the configuration, then check and time the norms on photographs and on the shapes of real layers.",
        epilog="Exit code: 0; 1 if a result is wrong or cannot be written; 130 after Ctrl-C; 141 where the program that reads "
        "the output has ended. The full benchmark is in bench/ of the source.",
    )
    parser.add_argument("--version", action="version", version=f"fusednorm {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="[command]")
    commands.add_parser("demo", help="what happens without a command")
    stats.add_arguments(commands.add_parser("stats", help="mean and standard deviation of images and arrays in files"))
    arguments = parser.parse_args()
    if arguments.command == "stats":
        return stats.run(arguments)

    from fusednorm.commands import demo

    return demo.run()


if __name__ == "__main__":
    sys.exit(console.exit_code(main))
