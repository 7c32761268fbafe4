"""PRORec from a clone; `pip install ./apps` makes the same the command `prorec`."""

from semrec.prorec.app import main

if __name__ == "__main__":
    main()
