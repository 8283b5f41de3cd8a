"""The scaling simulator: what a policy of an autoscaler does to the people who wait, and what it costs.

trace.py, curves.py      how many requests arrive when: a CSV file, or one of the shipped curves
policy.py, policy_file.py  what a policy says, and its strict TOML form; policies.toml holds the shipped ones
measured.py              start and service times, from ``warmswap bench cold``
hpa.py, behaviour.py     the formula of the HorizontalPodAutoscaler, its windows and its speed limits
keda.py, cron.py         zero to one and back, and the floor by the clock
autoscaler.py            all of them, period after period
slots.py, pods.py        room on nodes, and the phases of the start of a pod
queueing.py, waits.py    who waits how long, who gives up, who is served cold
simulation.py            one policy over one trace
figures.py, cost.py      what is reported; table.py, charts.py, report.py show it
"""
