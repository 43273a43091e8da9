"""Transfer: make the arms of a target from vectors of a source (or of the target alone).

    vectors(A), vectors(B), paired activations(A, B) -> [transfer map] -> vectors for B

`adapters` reads the YAML that names an arm (and imports no torch), `fits` find maps, `maps` are functions between residual
spaces, `rows` are the arms that need no source (native, controls), `geometry` compares vectors. Imports no lm_eval.
"""
