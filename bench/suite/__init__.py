"""make bench: the same work on heap and on orbit, in turn, on one server.

settings   what can be chosen by variables
server     the server, sessions, psql and pgbench
processes  memory of the server's processes, and what they write
limits     memory limits: a control group, or a dropped page cache
data       the tables, and how one is made anew for what changes it
measure    one run: what is noted beside its time
registry   the list of workloads
work_*     the workloads
myrocks    MyRocks as a third column, where it is installed
growth     make bench GROWTH=1
targets    what orbit is meant to reach
report     medians, the table, JSON
chart      the chart
"""
