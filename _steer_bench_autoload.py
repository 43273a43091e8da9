"""Makes the plain `lm_eval` command of lm-eval 0.4.12 and 0.4.13 find `--model steer_bench`.

`import torch` calls `autoload` through the "torch.backends" entry point. It does nothing unless lm_eval is being run, and never
raises: an error here would break `import torch` for the whole environment.
"""


def autoload() -> None:
    """Register steer_bench's model with lm_eval where lm_eval is already imported."""
    import sys

    if "lm_eval" not in sys.modules:
        return
    try:
        from steer_bench.harness.command import register

        register()
    except Exception as error:
        import logging

        logging.getLogger("steer_bench").warning("steer_bench could not register with lm_eval: %r", error)
