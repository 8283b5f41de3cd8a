"""``warmswap bench cold``: what the first users of a fresh replica meet, contender against contender.

bench      settings, calibration, the order of runs
run        one start of one contender under load, as a JSON record
figures    records to figures; knows no process
table, charts, report   figures for the terminal, as pictures, as a page
"""
