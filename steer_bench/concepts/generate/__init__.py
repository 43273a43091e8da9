"""Texts made by a model: passages of a concept, and neutral paragraphs.

    descriptions -> prompts with and without the concept -> Writer -> cleaned, filtered lines for `load_concepts`

AxBench's way (Wu et al. 2025, arXiv 2501.17148, section 3.1): the same kinds of prompt once with the concept, once with a plain
subject. Knows no particular model: a `Writer` is any Hugging Face model or OpenAI-compatible endpoint.

`tasks/data/neutral_map.jsonl` was made by

    steer-bench generate neutral --model smollm2-135m-instruct --n 343 --seed 1 --words 60 90 --prefix map \
        --temperature 0.8 --max-new-tokens 115 --batch-size 48 --out tasks/data/neutral_map.jsonl
"""
