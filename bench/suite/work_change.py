"""Workloads that change rows; each begins on a table made anew."""
from . import data
from .registry import load, workload
from .work_load import timed

# a tenth of the rows, spread over all pages
TENTH = '(hashint4(id) & 2147483647) % 10 = 3'


def statement_on_copy(run, kind, statement, indexes=()):
    data.copy(run, kind, indexes)
    return timed(run, statement)


@workload('update', 'update', 'UPDATE of 10 % of the rows, on every page, column without index')
def update(run):
    return statement_on_copy(run, 'facts', f'UPDATE t SET v = v + 1 WHERE {TENTH}', ['k'])


@workload('update_noise', 'update', 'UPDATE of 10 % of the rows, on every page, column without index; rows that do not compress', quick=False)
def update_noise(run):
    return statement_on_copy(run, 'noise', f'UPDATE t SET v = v + 1 WHERE {TENTH}', ['k'])


@workload('update_indexed', 'update', 'UPDATE of 10 % of the rows, indexed column')
def update_indexed(run):
    return statement_on_copy(run, 'facts', f'UPDATE t SET k = k + 1 WHERE {TENTH}', ['k'])


@workload('update_indexed_noise', 'update', 'UPDATE of 10 % of the rows, indexed column; rows that do not compress', quick=False)
def update_indexed_noise(run):
    return statement_on_copy(run, 'noise', f'UPDATE t SET k = k + 1 WHERE {TENTH}', ['k'])


@workload('delete', 'delete', 'DELETE of 10 % of the rows, on every page')
def delete(run):
    return statement_on_copy(run, 'facts', f'DELETE FROM t WHERE {TENTH}', ['k'])


@workload('delete_noise', 'delete', 'DELETE of 10 % of the rows, on every page; rows that do not compress', quick=False)
def delete_noise(run):
    return statement_on_copy(run, 'noise', f'DELETE FROM t WHERE {TENTH}', ['k'])


def random_updates(run, kind, options=(), seconds=None, series=False, extra=''):
    script = f"""\\set id random(1, {run.settings.rows})
UPDATE t SET v = v + 1 WHERE id = :id;
{extra}"""

    def work():
        return run.pgbench(script=script, clients=16, options=options, seconds=seconds, series=series)
    return run.measure(work, ['t'])


@load('update_random', 'update_random', 'updates of single rows at random, durable, 16 clients')
def update_random(run):
    data.copy(run, 'facts', ['k'])
    return random_updates(run, 'facts')


@load('update_random_noise', 'update_random', 'updates of single rows at random, 16 clients; rows that do not compress, synchronous_commit off', quick=False)
def update_random_noise(run):
    data.copy(run, 'noise', ['k'])
    return random_updates(run, 'noise', ['synchronous_commit=off'])


@load('sustained', 'sustained', 'updates at random and inserts of 1 kB without pause, synchronous_commit off, 16 clients')
def sustained(run):
    data.copy(run, 'noise', ['k'])
    run.sql('DROP TABLE IF EXISTS events', 'CREATE TABLE events (id bigserial PRIMARY KEY, body bytea)')
    extra = r"""\set r random(1, 1000000000)
INSERT INTO events (body) SELECT string_agg(sha512((:r + i)::text::bytea), '') FROM generate_series(1, 16) i;
"""
    return random_updates(run, 'noise', ['synchronous_commit=off'], run.settings.sustained, True, extra)


@load('tpcb', 'tpcb', "pgbench's TPC-B, 16 clients")
def tpcb(run):
    data.pgbench_tables(run)

    def work():
        return run.pgbench('-b', 'tpcb-like', clients=16)
    return run.measure(work, ['pgbench_accounts', 'pgbench_branches', 'pgbench_tellers', 'pgbench_history'])


@load('snapshot', 'snapshot', 'TPC-B and pgbench -S mixed (1:3) beside a snapshot that stays open, 8 clients')
def snapshot(run):
    data.pgbench_tables(run)
    old = run.session()
    old.ask('BEGIN ISOLATION LEVEL REPEATABLE READ')
    old.ask('SELECT sum(abalance) FROM pgbench_accounts')

    def work():
        return run.pgbench('-b', 'tpcb-like@1', '-b', 'select-only@3', clients=8)
    return run.measure(work)


QUEUE = """INSERT INTO q (body) VALUES ('work to be done');
DELETE FROM q WHERE id = (SELECT id FROM q ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1);
"""


@load('queue', 'queue', 'a queue, inserted at the tail and deleted at the head, last 30 % of its time; 4 clients, synchronous_commit off')
def queue(run):
    run.sql('DROP TABLE IF EXISTS q', 'CREATE TABLE q (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), body text)',
            "INSERT INTO q (body) SELECT 'work to be done' FROM generate_series(1, 1000)", 'VACUUM (ANALYZE) q')

    def work():
        figures = run.pgbench(script=QUEUE, clients=4, options=['synchronous_commit=off'],
                              seconds=run.settings.queue, series=True)
        series = figures['series']
        figures['tps_mean'] = figures['tps']
        figures['tps'] = sum(series[7:]) / 3
        figures['flat'] = figures['tps'] / max(sum(series[:3]) / 3, 1e-9)
        return figures
    return run.measure(work, ['q'])


@workload('create_index', 'create_index', 'CREATE INDEX on a column of random values')
def create_index(run):
    data.copy(run, 'facts')
    return timed(run, 'CREATE INDEX t_k ON t (k)')


@workload('create_index_noise', 'create_index', 'CREATE INDEX on a column of random values; rows that do not compress', quick=False)
def create_index_noise(run):
    data.copy(run, 'noise')
    return timed(run, 'CREATE INDEX t_k ON t (k)')


def churn_statements(rounds):
    """Every row updated once a round, a fifth of them, chosen at random, in each transaction."""
    return [f'UPDATE t SET v = v + 1 WHERE (hashint4(id # {r * 7919}) & 2147483647) % 5 = {part}'
            for r in range(rounds) for part in range(5)]


@workload('vacuum', 'vacuum', 'VACUUM after every row was updated twice and a tenth deleted, two indexes')
def vacuum(run):
    data.copy(run, 'facts', ['k'])
    run.sql('ALTER TABLE t SET (autovacuum_enabled = off)', *churn_statements(2), f'DELETE FROM t WHERE {TENTH}')
    return timed(run, 'VACUUM t')


def churn(run, kind):
    data.copy(run, kind, rows=run.settings.churn_rows)
    session = run.session()

    def work():
        return {'seconds': sum(session.time(s)[0] for s in churn_statements(10))}
    return run.measure(work, ['t'])


@workload('churn', 'churn', 'every row of CHURN_ROWS updated ten times in random order, autovacuum as it comes')
def churn_facts(run):
    return churn(run, 'facts')


@workload('churn_noise', 'churn', 'every row of CHURN_ROWS updated ten times in random order, autovacuum as it comes; rows that do not compress', quick=False)
def churn_noise(run):
    return churn(run, 'noise')
