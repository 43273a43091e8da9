"""Rules: deterministic checks of a reply, each one row of a table.

    reply -> [rule] -> score in [0, 1], or None: unscored

No model and no judge: the same reply has the same score everywhere. A rule with a rewrite is also a concept
(`rule_concept`), so a vector for it is learned, transferred and scored like any other. Cheap to import.
"""
