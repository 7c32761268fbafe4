"""PRORec's studies: the paper's tables and figures, and extensions."""
