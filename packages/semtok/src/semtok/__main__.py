"""The command line as a module: python -m semtok."""

from semtok.cli import main

if __name__ == "__main__":
    main()
