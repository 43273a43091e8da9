"""Judges: rate replies on concept, instruction and fluency, 0 to 2 each, or say why they could not.

    replies -> cases -> [judge] -> judgements -> rows

Importing this loads neither torch nor openai; a judge loads what it needs when it is made or first asked.
"""
