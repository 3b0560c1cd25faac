"""The tables.

Schema static, never changed: pgbench's tables, facts (rows that compress) and noise (rows that do not),
both with an index on the random column k.  What a workload changes is in schema public and made anew for each run.
"""
from .measure import DATABASES, Run
from .server import Failure

KINDS = {'facts': 'char(84)', 'noise': 'bytea'}

# i is the number of the row; 84 bytes that nothing compresses
NOISE = "substr(sha512(('a' || i)::bytea) || sha256(('b' || i)::bytea), 1, 84)"


def make_databases(bench):
    """Databases heap and orbit with empty schemas."""
    server = bench.server
    for am, db in DATABASES.items():
        server.sql('postgres', f'CREATE DATABASE {db}')
        server.sql(db, 'CREATE EXTENSION orbit_fdw', f'ALTER DATABASE {db} SET default_table_access_method = {am}',
                   'CREATE SCHEMA static')
    server.close_controls()     # the next ones have the database's settings


def make_static(bench):
    """Tables of schema static; the same rows in the same order in both databases."""
    server = bench.server
    rows = bench.settings.rows
    for name in KINDS:
        pad = "''" if name == 'facts' else NOISE
        server.sql('heap', f"""COPY (SELECT i, (hashint8(i)::bigint & 2147483647) % {rows}, 0, {pad}
            FROM generate_series(1::bigint, {rows}) i) TO '{server.path(name)}'""")
    for am, db in DATABASES.items():
        bench.say(f'making the tables of {am}')
        server.run('pgbench', '-i', '-q', '-s', bench.settings.scale, db, options=['search_path=static'])
        if am == 'heap':
            server.sql(db, f"COPY static.pgbench_accounts TO '{server.path('accounts')}'")
        for name, filler in KINDS.items():
            server.sql(db, f"""CREATE TABLE static.{name} (id int PRIMARY KEY, k int NOT NULL, v int NOT NULL,
                filler {filler})""", f"COPY static.{name} FROM '{server.path(name)}'",
                f'CREATE INDEX {name}_k ON static.{name} (k)', f'VACUUM (ANALYZE) static.{name}')
        Run(bench, am, 0, False).need_method(['static.pgbench_accounts', *[f'static.{name}' for name in KINDS]])
    server.sql('orbit', 'SELECT orbit_flush()', 'CHECKPOINT')


def empty(run, kind, indexes=()):
    """An empty table t like facts or noise, with these indexes beside the primary key."""
    filler = KINDS[kind]
    run.sql('DROP TABLE IF EXISTS t', f"""CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, v int NOT NULL,
        filler {filler})""", *[f'CREATE INDEX ON t ({column})' for column in indexes])


def copy(run, kind, indexes=(), rows=None):
    """A table t with the rows of facts or noise, vacuumed and analysed."""
    empty(run, kind)
    where = f'WHERE id <= {rows}' if rows else ''
    run.sql(f'INSERT INTO t SELECT * FROM static.{kind} {where} ORDER BY id',
            *[f'CREATE INDEX ON t ({column})' for column in indexes], 'VACUUM (ANALYZE) t')


def pgbench_tables(run):
    """pgbench's tables in schema public."""
    run.server.run('pgbench', '-i', '-q', '-s', run.settings.tpcb_scale, run.db)


def drop_changed(bench):
    """Everything in schema public of both."""
    for db in DATABASES.values():
        names = bench.server.sql(db, """SELECT oid::regclass FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace""").split()
        if names:
            bench.server.sql(db, 'DROP TABLE ' + ', '.join(names))


def need_rows(run, table, rows):
    """A Failure unless the table has so many."""
    there = run.server.number(run.db, f'SELECT count(*) FROM {table}')
    if there != rows:
        raise Failure(f'{table} on {run.am} has {there} rows instead of {rows}')
