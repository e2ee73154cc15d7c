"""Settled time at another price: the meter's difference, and who pays it.

An hour's adjustments follow from three things alone: what its time was metered at, what it costs
now, and who holds it after all moves. So what is posted is always the difference between what
should stand there and what does; applying the same prices again posts nothing.
"""
