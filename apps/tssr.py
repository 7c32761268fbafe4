"""TSSR from a clone; `pip install ./apps` makes the same the command `tssr`."""

from semrec.tssr.app import main

if __name__ == "__main__":
    main()
