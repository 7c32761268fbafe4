#!/bin/sh
# Installs the apps with what their service needs: `install.sh PYTHON REPOSITORY`.
# TORCH_INDEX names the index that torch comes from; the usual one where it is empty.
set -eu
python=$1 repository=$2
torch=$(grep '^torch==' "$repository/constraints.txt")
"$python" -m pip install --quiet "$torch" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
"$python" -m pip install --quiet --constraint "$repository/constraints.txt" \
    "$repository/packages/semtok[text,neural]" "$repository/packages/fusion" "$repository/packages/genrec" \
    "$repository/packages/evalrec[page]" "$repository/apps[serve]"
