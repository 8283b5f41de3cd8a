"""``warmswap bench avalanche``: new replicas under load, behind a real load balancer.

scenario   the phases of load, the autoscaler's rule
fleet      the replicas of one set-up: ordered, started, routed, drained, killed
sending    one request through the balancer, and which replica it went to
run        one set-up: calibrated at rest, then under load
bench      the benchmark as a whole, its results
figures    what is counted, from what was recorded
table, charts, report   the figures as text, PNG, HTML
"""
