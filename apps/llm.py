"""The language model's recipe from a clone; `pip install './apps[llm]'` makes it `semrec-llm`."""

from semrec.llm.app import main

if __name__ == "__main__":
    main()
