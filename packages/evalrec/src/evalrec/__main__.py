"""The command line as a module: python -m evalrec."""

from evalrec.cli import main

if __name__ == "__main__":
    main()
