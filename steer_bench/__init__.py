"""steer-bench: does a steering vector learned on one language model still steer another, and at what cost?"""

from pathlib import Path

__version__ = "0.1.0"


def shipped(folder: str) -> Path:
    """The folder `tasks`, `adapters` or `experiments` that ships with the package (or stands in the checkout)."""
    package = Path(__file__).resolve().parent
    for place in (package / folder, package.parent / folder):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"the folder {folder!r} of steer_bench is missing beside {package}; reinstall the package")


def register() -> None:
    """Register the model `steer_bench` with lm-eval, lazily: costs no import of torch.

    `lm_eval.models` comes first: lm-eval fills its table of built-in models only while that table is empty.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if "steer_bench" not in model_registry:
        model_registry.register("steer_bench", target="steer_bench.harness.steered_lm:SteeredLM")
