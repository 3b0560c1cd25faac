"""Workloads that only read, all on tables of schema static."""
from .registry import load, workload

ONE = ['max_parallel_workers_per_gather=0']
BY_INDEX = ['enable_seqscan=off', 'enable_bitmapscan=off', *ONE]


def repeated(run, statement, nodes, options=ONE, tables=()):
    """The mean of a query that is repeated for READ seconds, after a first one that does not count."""
    session = run.session(*options)
    run.need_plan(session, statement, *nodes)
    session.ask(statement)

    def work():
        times = []
        while sum(times) < run.settings.read:
            times.append(session.time(statement)[0])
        return {'seconds': sum(times) / len(times), 'transactions': len(times)}
    return run.measure(work, tables)


def select(run, clients):
    def work():
        return run.pgbench('-S', clients=clients, seconds=run.settings.load / 2, options=['search_path=static'])
    return run.measure(work)


@load('select_1', 'select', 'pgbench -S, prepared, 1 client')
def select_1(run):
    return select(run, 1)


@load('select_4', 'select', 'pgbench -S, prepared, 4 clients')
def select_4(run):
    return select(run, 4)


@load('select_16', 'select', 'pgbench -S, prepared, 16 clients')
def select_16(run):
    return select(run, 16)


@load('select_noise', 'select', 'lookups by primary key, prepared, 4 clients; rows that do not compress', quick=False)
def select_noise(run):
    script = f"\\set id random(1, {run.settings.rows})\nSELECT v FROM static.noise WHERE id = :id;\n"

    def work():
        return run.pgbench(script=script, clients=4, seconds=run.settings.load / 2)
    return run.measure(work)


def nested(run, table):
    rows, lookups = run.settings.rows, run.settings.lookups
    statement = f"""SELECT sum(t.v) FROM generate_series(1, {lookups}) i
        JOIN static.{table} t ON t.id = (1 + (i::bigint * 104729) % {rows})::int""".replace('\n', ' ')
    return repeated(run, statement, ['Nested Loop', 'Index Scan'],
                    ['enable_hashjoin=off', 'enable_mergejoin=off', 'enable_memoize=off', 'enable_material=off', *BY_INDEX])


@workload('nested', 'lookups', 'lookups by primary key in a nested loop, all of LOOKUPS')
def nested_facts(run):
    return nested(run, 'facts')


@workload('nested_noise', 'lookups', 'lookups by primary key in a nested loop, all of LOOKUPS; rows that do not compress', quick=False)
def nested_noise(run):
    return nested(run, 'noise')


@workload('plpgsql', 'lookups', 'lookups by primary key in a PL/pgSQL loop, all of LOOKUPS')
def plpgsql(run):
    session = run.session(*ONE)
    statement = f"""DO $$ DECLARE b int; BEGIN FOR i IN 1..{run.settings.lookups} LOOP
        SELECT v INTO STRICT b FROM static.facts WHERE id = 1 + (i::bigint * 104729) % {run.settings.rows};
        END LOOP; END $$""".replace('\n', ' ')

    def work():
        return {'seconds': session.time(statement)[0]}
    return run.measure(work)


def ranges(run, table, column, rows):
    """Sums over `rows` consecutive keys at a random place."""
    script = f"""\\set from random(1, {run.settings.rows - rows})
SELECT sum(v) FROM static.{table} WHERE {column} BETWEEN :from AND :from + {rows - 1};
"""
    session = run.session(*BY_INDEX)
    run.need_plan(session, f'SELECT sum(v) FROM static.{table} WHERE {column} BETWEEN 1000 AND {999 + rows}', 'Index Scan')

    def work():
        return run.pgbench(script=script, seconds=run.settings.load / 2, options=BY_INDEX)
    return run.measure(work)


@load('range_100', 'range', 'range scans of 100 rows by primary key, 1 client')
def range_100(run):
    return ranges(run, 'facts', 'id', 100)


@load('range_10000', 'range', 'range scans of 10,000 rows by primary key')
def range_10000(run):
    return ranges(run, 'facts', 'id', 10000)


@load('range_10000_noise', 'range', 'range scans of 10,000 rows by primary key; rows that do not compress', quick=False)
def range_10000_noise(run):
    return ranges(run, 'noise', 'id', 10000)


@load('range_k_100', 'range', 'range scans of 100 rows by a secondary index, rows in random places')
def range_k_100(run):
    return ranges(run, 'facts', 'k', 100)


@load('range_k_10000', 'range', 'range scans of 10,000 rows by a secondary index, rows in random places')
def range_k_10000(run):
    return ranges(run, 'facts', 'k', 10000)


@workload('sum', 'scan', 'sum over all rows, one process')
def sum_one(run):
    return repeated(run, 'SELECT sum(abalance) FROM static.pgbench_accounts', ['Seq Scan'])


@workload('sum_noise', 'scan', 'sum over all rows, one process; rows that do not compress', quick=False)
def sum_noise(run):
    return repeated(run, 'SELECT sum(v) FROM static.noise', ['Seq Scan'])


@workload('sum_parallel', 'scan', 'sum over all rows, parallel with two workers')
def sum_parallel(run):
    return repeated(run, 'SELECT sum(abalance) FROM static.pgbench_accounts', ['Gather', 'Parallel Seq Scan'],
                    ['max_parallel_workers_per_gather=2', 'parallel_setup_cost=0', 'parallel_tuple_cost=0',
                     'min_parallel_table_scan_size=0'])


@workload('count', 'scan', 'count(*), one process')
def count(run):
    return repeated(run, 'SELECT count(*) FROM static.pgbench_accounts', ['Seq Scan'],
                    ['enable_indexonlyscan=off', *ONE])


@workload('bitmap', 'bitmap', 'bitmap scan of 1 % of the rows, in random places')
def bitmap(run):
    hundredth = run.settings.rows // 100
    statement = f'SELECT sum(v) FROM static.facts WHERE k BETWEEN 1000 AND {999 + hundredth}'
    return repeated(run, statement, ['Bitmap Heap Scan'], ['enable_seqscan=off', 'enable_indexscan=off', *ONE])


@workload('bitmap_noise', 'bitmap', 'bitmap scan of 1 % of the rows, in random places; rows that do not compress', quick=False)
def bitmap_noise(run):
    hundredth = run.settings.rows // 100
    statement = f'SELECT sum(v) FROM static.noise WHERE k BETWEEN 1000 AND {999 + hundredth}'
    return repeated(run, statement, ['Bitmap Heap Scan'], ['enable_seqscan=off', 'enable_indexscan=off', *ONE])
