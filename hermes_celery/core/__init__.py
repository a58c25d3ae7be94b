"""Values and decisions: what a job, run, policy, target and incident are, and what follows.

Each question is answered from arguments alone; `now` is one of them. No input or output, no clock,
no environment: what is stored is `store`'s, what happens is the three processes'.
"""
