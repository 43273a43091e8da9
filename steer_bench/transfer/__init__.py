"""Transfer: make the arms of a target from vectors of a source (or of the target alone).

    vectors(A), vectors(B), paired activations(A, B) -> [transfer map] -> vectors for B

`adapters` reads the YAML that names an arm (and imports no torch), `measure_pair` makes what a fit needs, `fits` find maps, `maps`
are functions between residual spaces, `controls` the arms that need no source, `pair_vectors` and `target_arms` what comes of
it, `geometry` compares vectors. Imports no lm_eval.
"""
