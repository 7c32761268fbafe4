"""CoCoRec from a clone; `pip install ./apps` makes the same the command `cocorec`."""

from semrec.cocorec.app import main

if __name__ == "__main__":
    main()
