"""Three published recommenders composed of semtok, fusion, genrec and evalrec."""
