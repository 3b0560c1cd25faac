"""Connections: many, idle, new ones; and what is larger than memory."""
import statistics
import time

from . import data
from .processes import memory
from .registry import load, workload


@load('connections', 'connections', 'pgbench -S, prepared, 100 connections')
def connections(run):
    def work():
        return run.pgbench('-S', clients=100, options=['search_path=static'])
    return run.measure(work)


@workload('idle', 'idle', 'memory of an idle backend that has read by index and by scan', 'idle_bytes', unit='MB')
def idle(run):
    sessions = [run.session('max_parallel_workers_per_gather=0') for _ in range(8)]
    for i, s in enumerate(sessions):
        s.ask('SELECT sum(v) FROM static.noise')
        s.ask('SELECT sum(abalance) FROM static.pgbench_accounts')
        for j in range(20):
            s.ask(f'SELECT v FROM static.facts WHERE id = {1 + (i * 20 + j) * 104729 % run.settings.rows}')
    time.sleep(run.settings.idle)
    figures = {'idle_bytes': statistics.median(memory(s.pid) for s in sessions) / 1e6}
    run.close()
    return figures


def make_many(run):
    """About as many SST files as FILES says: tables of 1.2 MB, each flushed with the next nine."""
    files = run.settings.files
    if run.sql("SELECT to_regclass('many.t1') IS NOT NULL") == 't':
        return
    statements = ['CREATE SCHEMA many;']
    for n in range(1, files + 1):
        statements.append(f"""CREATE TABLE many.t{n} (id int PRIMARY KEY, v int NOT NULL, filler bytea);
INSERT INTO many.t{n} SELECT i + 1, 0, sha512(('{n} ' || i)::bytea) || sha512(('b{n} ' || i)::bytea)
    FROM generate_series(0, 8999) i;""")
        if run.am == 'orbit' and n % 10 == 0:
            statements.append('SELECT orbit_flush();')
    run.server.script(run.db, '\n'.join(statements) + '\nVACUUM ANALYZE;\n')
    if run.am == 'orbit':
        run.rest([])


@workload('first', 'first', 'first query of a new connection, by primary key, beside FILES tables', unit='ms', last=True)
def first(run):
    make_many(run)
    run.settle()
    times = []
    for i in range(30):
        session = run.session()
        times.append(session.time(f'SELECT v FROM many.t{1 + i % run.settings.files} WHERE id = {i * 50 + 1}')[0] * 1000)
        run.close()
    times.sort()
    return {'seconds': statistics.median(times), 'p95': times[int(len(times) * 0.95) - 1], 'max': times[-1],
            'sst_files': run.server.number('orbit', 'SELECT sum(files) FROM orbit_column_families()')}


# ---- larger than memory ------------------------------------------------------------------

def key(i):
    """A number for each i, none twice, in no order: i times a number modulo a prime."""
    return f'({i}::bigint * 618033371) % 999999000001'


def make_big(run):
    """A table whose primary key is random, so that neighbours in time are none in the index."""
    if run.sql("SELECT to_regclass('static.big') IS NOT NULL") == 't':
        return
    run.sql('CREATE TABLE static.big (id bigint PRIMARY KEY, v int NOT NULL, filler bytea)',
            f"""INSERT INTO static.big SELECT {key('i')}, 0, {data.NOISE}
                FROM generate_series(1, {run.settings.large_rows}) i""",
            f'CREATE SEQUENCE static.big_next START {run.settings.large_rows + 1}', 'VACUUM (ANALYZE) static.big')
    run.settle()


def in_big(run, script, options=()):
    """The table is made once: each run goes on where the last one has left it, on both alike."""
    make_big(run)

    def work():
        return run.pgbench(script=script, clients=4, options=options)
    return run.measure(work, ['static.big'])


@load('large_select', 'large', 'larger than memory: lookups by primary key, 4 clients', large=True)
def large_select(run):
    return in_big(run, f"""\\set i random(1, {run.settings.large_rows})
SELECT v FROM static.big WHERE id = {key(':i')};
""")


@load('large_update', 'large', 'larger than memory: updates at random, synchronous_commit off, 4 clients', large=True)
def large_update(run):
    return in_big(run, f"""\\set i random(1, {run.settings.large_rows})
UPDATE static.big SET v = v + 1 WHERE id = {key(':i')};
""", ['synchronous_commit=off'])


@load('large_insert', 'large', 'larger than memory: inserts with random keys, synchronous_commit off, 4 clients', large=True)
def large_insert(run):
    return in_big(run, f"""INSERT INTO static.big SELECT {key('n')}, 0, {data.NOISE.replace("|| i", "|| n")}
    FROM nextval('static.big_next') n;
""", ['synchronous_commit=off'])
