"""The public names: each is there, and those of configurations import no torch."""

from __future__ import annotations

import subprocess
import sys

import genrec


def test_every_public_name_is_there() -> None:
    assert dir(genrec) == sorted(genrec.__all__)
    for name in genrec.__all__:
        assert getattr(genrec, name) is not None


def test_configurations_import_and_refuse_without_torch() -> None:
    code = (
        "import sys, genrec\n"
        "genrec.ArtifactError, genrec.TrainingEvent, genrec.Answer\n"
        "genrec.SequenceRecipe().settings(0, monitor=None), genrec.Seq2SeqConfig()\n"
        "for kind, wrong in ((genrec.SequenceRecipe, {'temperature': 0.0}),\n"
        "                    (genrec.NextItemRecipe, {'num_negatives': -1}),\n"
        "                    (genrec.TrainingRecipe, {'epochs': 0})):\n"
        "    try:\n"
        "        kind(**wrong)\n"
        "    except ValueError as error:\n"
        "        print(str(error).split()[0])\n"
        "print('torch' in sys.modules, 'lightning_fabric' in sys.modules)\n"
        "genrec.SequenceRecipe().loss\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [
        "temperature",
        "num_negatives",
        "epochs",
        "False False",
        "True",
        "",
    ]
