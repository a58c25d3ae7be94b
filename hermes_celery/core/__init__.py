"""Values and decisions: what a job, run, policy, target and incident are, and the rules about them.

Every function answers from its arguments alone, `now` among them. There is no input or output, no
clock and no environment here: `store` keeps the values, and the three processes act on them.
"""
