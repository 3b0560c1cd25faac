"""One run of a workload on one access method, and what is noted beside its time."""
import array
import glob
import json
import os
import re
import time

from .processes import Watch, device_written
from .server import Failure, Session

DATABASES = {'heap': 'heap', 'orbit': 'orbit'}


class Run:
    """What a workload function gets."""

    def __init__(self, bench, am, number, last):
        self.bench = bench
        self.server = bench.server
        self.settings = bench.settings
        self.am = am
        self.db = DATABASES[am]
        self.number = number
        self.last = last
        self.sessions = []

    # ---- statements -----------------------------------------------------------------

    def sql(self, *statements):
        return self.server.sql(self.db, *statements)

    def session(self, *options):
        s = Session(self.server, self.db, options)
        self.sessions.append(s)
        return s

    def close(self):
        for s in self.sessions:
            s.close()
        self.sessions.clear()

    def need_plan(self, session, statement, *nodes):
        """A Failure unless the plan has these nodes: both must do the same work."""
        plan = '\n'.join(session.ask('EXPLAIN (COSTS OFF) ' + statement))
        for node in nodes:
            if node not in plan:
                raise Failure(f'the plan on {self.am} has no {node}: ' + ' / '.join(plan.split('\n')[:4]))

    # ---- before and after -----------------------------------------------------------

    def settle(self):
        """Everything on disk, nothing under way in the background."""
        limit = time.monotonic() + max(self.settings.rest, 10)
        self.server.sql(DATABASES['orbit'], 'SELECT orbit_flush()', 'CHECKPOINT')
        while time.monotonic() < limit:
            busy = self.server.sql(DATABASES['orbit'], """SELECT (SELECT running FROM orbit_stat_reclaim())
                OR EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')""")
            if busy == 'f':
                return
            time.sleep(0.1)

    def lsn(self):
        return self.server.number(DATABASES['orbit'], "SELECT pg_current_wal_insert_lsn() - '0/0'")

    def need_method(self, tables):
        for t in tables:
            if self.sql(f"SELECT amname FROM pg_class c JOIN pg_am a ON c.relam = a.oid WHERE c.oid = '{t}'::regclass") != self.am:
                raise Failure(f'{t} is no table of {self.am}')

    def full_pages(self):
        return self.server.number(DATABASES['orbit'], 'SELECT wal_fpi FROM pg_stat_wal')

    def measure(self, function, tables=(), per_row=False):
        """Figures of function(), which returns some; WAL, writes and memory are added.

        tables: their sizes are noted too, in the last run.  per_row: as bytes a row."""
        self.need_method(tables)
        self.settle()
        full_pages = self.full_pages()
        with Watch(self.server.postmaster(), self.server.control_pids()) as watch:
            lsn = self.lsn()
            device = device_written(self.server.scratch)
            figures = function()
            watch.look_at_memory()
            figures['wal'] = self.lsn() - lsn
            begin = time.monotonic()
            self.server.sql(DATABASES['orbit'], 'SELECT orbit_flush()', 'CHECKPOINT')
            figures['settle_seconds'] = time.monotonic() - begin
            figures['written_processes'] = watch.written()
            figures['written'] = device_written(self.server.scratch) - device
            figures.update({f'memory_{what}': peak for what, peak in watch.peaks.items()})
            self.close()
            figures['full_pages'] = self.full_pages() - full_pages
            if tables and self.last:
                self.note_sizes(figures, tables, per_row)
                figures['written_rest'] = device_written(self.server.scratch) - device
        for what in {'wal', 'written', 'full_pages', 'written_rest', 'written_processes'} & figures.keys():
            figures[what] /= figures.get('transactions', 1)
        return figures

    # ---- sizes ----------------------------------------------------------------------

    def sizes(self, tables):
        """Bytes of the tables, and of their indexes."""
        table = index = 0
        for t in tables:
            table += self.server.number(self.db, f"SELECT pg_table_size('{t}')")
            index += self.server.number(self.db, f"SELECT pg_indexes_size('{t}')")
            if self.am == 'orbit':
                table += self.server.number(self.db, f"""SELECT coalesce(sum(bytes), 0) FROM orbit_storages()
                    WHERE relation = '{t}'::regclass""")
        return table, index

    def note_sizes(self, figures, tables, per_row):
        """After the checkpoint, and after compactions (heap: VACUUM) have come to rest."""
        rows = sum(self.server.number(self.db, f'SELECT count(*) FROM {t}') for t in tables) if per_row else 1
        names = ('table', 'index')
        for name, n in zip(names, self.sizes(tables)):
            figures[f'{name}_bytes'] = n / max(rows, 1)
        if self.am == 'orbit':
            self.rest(tables)
        else:
            self.sql(*[f'VACUUM {t}' for t in tables], 'CHECKPOINT')
        for name, n in zip(names, self.sizes(tables)):
            figures[f'{name}_bytes_rest'] = n / max(rows, 1)

    def rest(self, tables):
        """Waits, at most REST seconds, until orbit's tables have not changed for a while."""
        db = DATABASES['orbit']
        self.server.sql(db, "ALTER SYSTEM SET orbit.reclaim_delay = '1s'", 'SELECT pg_reload_conf()',
                        *[f'VACUUM {t}' for t in tables], 'SELECT orbit_flush()', 'CHECKPOINT')
        limit = time.monotonic() + self.settings.rest
        quiet = 0
        last = None
        while quiet < (6 if self.settings.rest >= 10 else 3) and time.monotonic() < limit:
            time.sleep(0.5)
            now = self.server.sql(db, 'SELECT running, compactions FROM orbit_stat_reclaim()',
                                  'SELECT files, bytes, levels FROM orbit_column_families()')
            quiet = quiet + 1 if now == last and not now.startswith('t') else 0
            last = now
        self.server.sql(db, 'ALTER SYSTEM RESET orbit.reclaim_delay', 'SELECT pg_reload_conf()')

    # ---- pgbench --------------------------------------------------------------------

    def pgbench(self, *args, seconds=None, script=None, options=(), clients=1, series=False):
        """tps, latencies in ms, and with series the tps in each tenth of the time."""
        prefix = self.server.path('latency')
        for old in glob.glob(prefix + '.*'):
            os.unlink(old)
        if script:
            path = self.server.path('script.sql')
            with open(path, 'w', encoding='utf8') as f:
                f.write(script)
            args = (*args, '-f', path)
        seconds = seconds or self.settings.load
        # whole seconds, and connecting is a part of them
        least = 1 if clients < 16 else 2 if clients < 100 else 6
        seconds = max(least, round(seconds))
        for attempt in range(4):
            out = self.server.run('pgbench', '-n', '-M', 'prepared', '-c', clients, '-j', min(clients, 2),
                                  '-T', seconds << attempt, '-l', '--log-prefix', prefix,
                                  f'--random-seed={self.settings.seed + self.number}', *args, self.db,
                                  options=options, timeout=8 * seconds + 1200)
            if 'actually processed: 0\n' not in out:
                break
        tps = re.search(r'^tps = ([0-9.]+)', out, re.M)
        failed = re.search(r'number of failed transactions: ([0-9]+)', out)
        if not tps or (failed and failed.group(1) != '0'):
            raise Failure('pgbench: ' + ' '.join(out.split())[-200:])
        figures = {'tps': float(tps.group(1))}
        figures.update(latencies(prefix, series))
        return figures


def latencies(prefix, series):
    """Of pgbench's logs; percentiles by nearest rank, in ms; with series transactions/s in tenths of the time."""
    took = array.array('q')
    ended = array.array('d')
    for path in glob.glob(prefix + '.*'):
        with open(path, encoding='ascii') as log:
            for line in log:
                words = line.split()
                took.append(int(words[2]))
                if series:
                    ended.append(int(words[4]) + int(words[5]) / 1e6)
        os.unlink(path)
    if not took:
        raise Failure('pgbench has done no transaction')
    ordered = sorted(took)
    figures = {'transactions': len(ordered)}
    for name, share in (('p50', 0.5), ('p95', 0.95), ('p99', 0.99), ('p999', 0.999)):
        rank = min(len(ordered) - 1, max(0, -(-len(ordered) * share // 1) - 1))
        figures[name] = ordered[int(rank)] / 1000
    figures['max'] = ordered[-1] / 1000
    if series:
        begin, tenth = min(ended), max((max(ended) - min(ended)) / 10, 1e-6)
        tenths = [0] * 10
        for at in ended:
            tenths[min(int((at - begin) / tenth), 9)] += 1
        figures['series'] = [n / tenth for n in tenths]
    return figures


def dump(path, what):
    with open(path, 'w', encoding='utf8') as f:
        json.dump(what, f, indent=1)
        f.write('\n')
