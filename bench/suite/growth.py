"""make bench GROWTH=1: what a row costs when there are more of them, and RocksDB's own counters.

One table in each database grows by INSERT ... SELECT of rows that do not compress.  At each size: lookups at random,
a sum over everything, updates at random.
"""
import os

from .measure import DATABASES, Run, dump
from .report import environment, show, where

STEP = 1000000      # rows of a transaction

COUNTERS = {
    'bytes_flushed': 'SELECT bytes_flushed FROM orbit_stat_storage()',
    'bytes_compacted': 'SELECT bytes_written FROM orbit_stat_reclaim()',
    'files': 'SELECT sum(files) FROM orbit_column_families()',
    'bytes': "SELECT bytes FROM orbit_column_families() WHERE name = 'pg_data'",
}


def insert(run, first, last):
    """Seconds of it all, and of making the rows."""
    session = run.session()
    seconds = making = 0
    for begin in range(first, last + 1, STEP):
        end = min(begin + STEP - 1, last)
        rows = f'SELECT i, 0, sha512(i::text::bytea) FROM generate_series({begin}, {end}) i'
        seconds += session.time(f'INSERT INTO grown {rows}')[0]
        making += session.time(f'SELECT count(sha512) FROM ({rows}) x')[0]
    run.close()
    return seconds, making



def counted(run):
    now = {name: run.server.number('orbit', statement) for name, statement in COUNTERS.items()}
    now['levels'] = run.server.sql('orbit', "SELECT levels FROM orbit_column_families() WHERE name = 'pg_data'")
    return now


def step(run, first, last):
    """Figures of the table grown from row `first` to row `last`."""
    seconds, making = insert(run, first, last)
    added = last - first + 1
    figures = {'rows': last, 'insert_us': (seconds - making) / added * 1e6, 'making_us': making / added * 1e6}
    if run.am == 'orbit':
        run.settle()
        figures['after_load'] = counted(run)
    run.sql('VACUUM (ANALYZE) grown')
    run.settle()
    run.rest([]) if run.am == 'orbit' else None
    lookup = run.pgbench(script=f'\\set id random(1, {last})\nSELECT v FROM grown WHERE id = :id;\n')
    figures['lookup_us'] = 1e6 / lookup['tps']
    session = run.session('max_parallel_workers_per_gather=0')
    session.ask('SELECT sum(v) FROM grown')
    figures['scan_us'] = session.time('SELECT sum(v) FROM grown')[0] / last * 1e6
    run.close()
    update = run.pgbench(script=f'\\set id random(1, {last})\nUPDATE grown SET v = v + 1 WHERE id = :id;\n',
                         clients=4, options=['synchronous_commit=off'])
    figures['update_us'] = 1e6 / update['tps']
    if run.am == 'orbit':
        run.settle()
        figures['after_updates'] = counted(run)
        run.rest([])
        figures['at_rest'] = counted(run)
    figures['table_bytes'], figures['index_bytes'] = run.sizes(['grown'])
    return figures


def amplification(now):
    """Bytes written to files for each byte flushed."""
    return (now['bytes_flushed'] + now['bytes_compacted']) / max(now['bytes_flushed'], 1)


def table(results):
    out = ['| rows | | insert, us/row | lookup, us | update, us | scan, us/row | table, bytes/row | files | levels of pg_data | '
           'write amplification of the load | after updates | space amplification |', '|---' * 12 + '|']
    for am, steps in results.items():
        for f in steps:
            cells = [f"{f['rows']:,}", am] + [show(f[k]) for k in ('insert_us', 'lookup_us', 'update_us', 'scan_us')]
            cells.append(show(f['table_bytes'] / f['rows']))
            if 'at_rest' in f:
                cells += [str(f['at_rest']['files']), f['at_rest']['levels'], show(amplification(f['after_load'])),
                          show(amplification(f['at_rest'])),
                          show(f['after_updates']['bytes'] / max(f['at_rest']['bytes'], 1))]
            else:
                cells += [''] * 5
            out.append('| ' + ' | '.join(cells) + ' |')
    return out


EXPLAINED = """Inserts are INSERT ... SELECT, less the time of making the rows; lookups by primary key at random, one client; updates at
random, 4 clients, synchronous_commit off; the scan is a sum over all rows in one process. Write amplification is what flushes and compactions of
pg_data have written to files over what was flushed, since the server was started; space amplification is the size of
pg_data after the updates over its size when compactions have come to rest."""


def run(bench):
    bench.start()
    env = environment(bench.server)
    results = {am: [] for am in DATABASES}
    for am, db in DATABASES.items():
        bench.server.sql(db, 'CREATE TABLE grown (id int PRIMARY KEY, v int NOT NULL, filler bytea)')
    done = 0
    for rows in map(int, bench.settings.growth_rows.split()):
        for am in DATABASES:
            bench.say(f'{am}: {rows} rows')
            figures = step(Run(bench, am, 1, True), done + 1, rows)
            results[am].append(figures)
            bench.say(f"{am}: insert {figures['insert_us']:.2f}, lookup {figures['lookup_us']:.1f}, "
                      f"scan {figures['scan_us']:.3f} us a row")
        done = rows
        text = ['# How cost grows', '', *table(results), '', EXPLAINED, *where(env, bench.settings, '')]
        os.makedirs(bench.settings.out, exist_ok=True)
        with open(os.path.join(bench.settings.out, 'growth.md'), 'w', encoding='utf8') as f:
            f.write('\n'.join(text) + '\n')
        dump(os.path.join(bench.settings.out, 'growth.json'), {'environment': env, 'chosen': bench.settings.as_dict(),
                                                               'results': results})
    print('\n' + '\n'.join(table(results)))
    print(f'\nAll of it: {bench.settings.out}/growth.md, growth.json')
