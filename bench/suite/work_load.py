"""Workloads that write new rows."""
from . import data
from .registry import load, workload

EVENT = "INSERT INTO events (body) VALUES ('the quick brown fox jumps over the lazy dog');\n"


def timed(run, statement, tables=('t',), options=()):
    """One statement in a session of its own."""
    session = run.session(*options)

    def work():
        seconds, _ = session.time(statement)
        return {'seconds': seconds}
    return run.measure(work, tables)


def accounts(run):
    run.sql('DROP TABLE IF EXISTS t', 'CREATE TABLE t (LIKE static.pgbench_accounts INCLUDING ALL)')


@workload('copy', 'copy', 'COPY of pgbench_accounts into an empty table with primary key')
def copy(run):
    accounts(run)
    figures = timed(run, f"COPY t FROM '{run.server.path('accounts')}'")
    data.need_rows(run, 't', run.settings.rows)
    return figures


@workload('copy_noise', 'copy', 'COPY into an empty table with primary key; rows that do not compress')
def copy_noise(run):
    data.empty(run, 'noise')
    return timed(run, f"COPY t FROM '{run.server.path('noise')}'")


@workload('copy_indexes', 'copy', 'COPY into an empty table with primary key and three more indexes')
def copy_indexes(run):
    data.empty(run, 'facts', ('k', 'v', 'k, v'))
    return timed(run, f"COPY t FROM '{run.server.path('facts')}'")


@workload('copy_indexes_noise', 'copy', 'COPY into an empty table with primary key and three more indexes; rows that do not compress', quick=False)
def copy_indexes_noise(run):
    data.empty(run, 'noise', ('k', 'v', 'k, v'))
    return timed(run, f"COPY t FROM '{run.server.path('noise')}'")


@workload('insert_select', 'insert_select', 'INSERT ... SELECT into a table with primary key')
def insert_select(run):
    data.empty(run, 'facts')
    return timed(run, 'INSERT INTO t SELECT * FROM static.facts')


@workload('insert_select_noise', 'insert_select', 'INSERT ... SELECT into a table with primary key; rows that do not compress', quick=False)
def insert_select_noise(run):
    data.empty(run, 'noise')
    return timed(run, 'INSERT INTO t SELECT * FROM static.noise')


def inserts(run, clients, options=()):
    run.sql('DROP TABLE IF EXISTS events',
            'CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), body text)')

    def work():
        return run.pgbench(script=EVENT, clients=clients, options=options)
    return run.measure(work, ['events'], per_row=True)


@load('insert_1', 'insert', 'durable inserts of one row, 1 client')
def insert_1(run):
    return inserts(run, 1)


@load('insert_16', 'insert', 'durable inserts of one row, 16 clients')
def insert_16(run):
    return inserts(run, 16)


@load('insert_async', 'insert', 'inserts of one row, synchronous_commit off, 16 clients')
def insert_async(run):
    return inserts(run, 16, ['synchronous_commit=off'])


@load('insert_noise', 'insert', 'inserts of one row, synchronous_commit off, 16 clients; rows of 500 bytes that do not compress', quick=False)
def insert_noise(run):
    run.sql('DROP TABLE IF EXISTS events', 'CREATE TABLE events (id bigserial PRIMARY KEY, body bytea)')
    script = r"""\set r random(1, 1000000000)
INSERT INTO events (body) SELECT string_agg(sha512((:r + i)::text::bytea), '') FROM generate_series(1, 8) i;
"""

    def work():
        return run.pgbench(script=script, clients=16, options=['synchronous_commit=off'])
    return run.measure(work, ['events'], per_row=True)
