"""MyRocks as a third column, where MariaDB with its plugin is installed (Debian: mariadb-plugin-rocksdb).

A server of its own, on a socket in the scratch directory, without passwords.  Only workloads that are one statement: pgbench
does not speak its protocol.  Compressed like orbit; a commit is durable; other settings are its defaults.
"""
import os
import subprocess
import time

from .server import Failure

ENGINE = 'ENGINE=rocksdb DEFAULT CHARSET=latin1 COLLATE=latin1_bin'
TENTH = 'crc32(id) % 10 = 3'
OPTIONS = ['--skip-networking', '--skip-grant-tables', '--skip-log-bin', '--plugin-load-add=ha_rocksdb.so',
           '--rocksdb-max-row-locks=1000000000', '--rocksdb-block-cache-size=1G',
           '--rocksdb-default-cf-options=compression=kLZ4Compression;bottommost_compression=kZSTD;'
           'block_based_table_factory={filter_policy=bloomfilter:10:false;whole_key_filtering=1}']


def installed(prefix):
    """Whether there is a server with the plugin below this directory, /usr by default."""
    return all(os.path.exists(os.path.join(prefix, name)) for name in (
        'sbin/mariadbd', 'bin/mariadb', 'bin/mariadb-install-db', 'lib/mysql/plugin/ha_rocksdb.so'))


class MyRocks:
    def __init__(self, server, settings):
        self.server = server        # PostgreSQL's: its scratch directory and owner
        self.settings = settings
        self.prefix = settings.myrocks
        self.data = server.path('myrocks')
        self.socket = server.path('myrocks.sock')
        self.process = None

    def program(self, name):
        return os.path.join(self.prefix, name)

    def start(self):
        os.mkdir(self.data)
        if self.server.owner:
            how = self.server.arguments((), False)
            os.chown(self.data, how['user'], how['group'])
        self.server.run(self.program('bin/mariadb-install-db'), '--no-defaults', f'--basedir={self.prefix}',
                        f'--datadir={self.data}', '--auth-root-authentication-method=normal', '--skip-test-db')
        with open(self.server.path('myrocks.log'), 'w', encoding='utf8') as log:
            self.process = subprocess.Popen(
                [self.program('sbin/mariadbd'), '--no-defaults', f'--basedir={self.prefix}', f'--datadir={self.data}',
                 f'--socket={self.socket}', f'--plugin-dir={self.program("lib/mysql/plugin")}',
                 f'--pid-file={self.data}/pid', *OPTIONS],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.server.arguments((), True))
        limit = time.monotonic() + 60
        while True:
            try:
                self.sql('CREATE DATABASE IF NOT EXISTS bench', db='')
                return
            except Failure:
                if time.monotonic() > limit or self.process.poll() is not None:
                    raise
                time.sleep(0.5)

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def sql(self, *statements, db='bench'):
        """Output of the statements, in one session."""
        return self.server.run(self.program('bin/mariadb'), '--no-defaults', '-u', 'root', '-S', self.socket, '-N', '-B',
                               *([db] if db else []), text_in=';\n'.join(statements) + ';\n').strip()

    def time(self, *statements):
        """Seconds of the last of them."""
        out = self.sql(*statements[:-1], 'SET @begin = SYSDATE(6)', statements[-1],
                       'SELECT TIMESTAMPDIFF(MICROSECOND, @begin, SYSDATE(6)) / 1000000')
        return float(out.splitlines()[-1])

    # ---- tables ---------------------------------------------------------------------

    def load(self, table, kind):
        """LOAD DATA of a file that PostgreSQL has written, into a table that is there."""
        noise = '(id, k, v, @f) SET filler = UNHEX(SUBSTR(@f, 3))' if kind == 'noise' else ''
        return f"LOAD DATA INFILE '{self.server.path(kind)}' INTO TABLE {table} {noise}"

    def create(self, table, kind):
        if kind == 'accounts':
            columns = 'aid int PRIMARY KEY, bid int, abalance int, filler char(84)'
        else:
            columns = f"id int PRIMARY KEY, k int NOT NULL, v int NOT NULL, filler {'varbinary(84)' if kind == 'noise' else 'char(84)'}"
        self.sql(f'DROP TABLE IF EXISTS {table}', f'CREATE TABLE {table} ({columns}) {ENGINE}')

    def make_static(self):
        for kind in ('accounts', 'facts', 'noise'):
            self.create(kind, kind)
            self.sql(self.load(kind, kind))
            if kind != 'accounts':
                self.sql(f'CREATE INDEX {kind}_k ON {kind} (k)')
            self.sql(f'ANALYZE TABLE {kind}')

    def copy(self, kind, index=True):
        self.create('t', kind)
        self.sql(f'INSERT INTO t SELECT * FROM {kind}')
        if index:
            self.sql('CREATE INDEX t_k ON t (k)')
        self.settle()

    def settle(self):
        self.sql('SET GLOBAL rocksdb_force_flush_memtable_now = 1')

    # ---- workloads ------------------------------------------------------------------

    def run(self, name):
        return {'seconds': WORKLOADS[name](self)}


def copying(kind, indexes=''):
    def work(my):
        my.create('t', kind)
        if indexes:
            my.sql(f'ALTER TABLE t {indexes}')
        my.settle()
        return my.time(my.load('t', kind))
    return work


def insert_select(my):
    my.create('t', 'facts')
    my.settle()
    return my.time('INSERT INTO t SELECT * FROM facts')


def changing(kind, statement, index=True):
    def work(my):
        my.copy(kind, index)
        return my.time(statement)
    return work


def reading(statement):
    """Repeated for READ seconds after a first time; {rows}, {lookups}, {hundredth} are filled in."""
    def work(my):
        rows = my.settings.rows
        text = statement.format(rows=rows, lookups=my.settings.lookups, to=999 + rows // 100)
        times = []
        while sum(times) < my.settings.read:
            times.append(my.time(text, text))
        return sum(times) / len(times)
    return work


def loop(my):
    my.sql('DROP PROCEDURE IF EXISTS lookups', f"""DELIMITER //
CREATE PROCEDURE lookups() BEGIN DECLARE i, b INT; SET i = 1;
WHILE i <= {my.settings.lookups} DO
SELECT v INTO b FROM facts WHERE id = 1 + (i * 104729) % {my.settings.rows}; SET i = i + 1; END WHILE; END //
DELIMITER """)
    return my.time('CALL lookups()')


NESTED = 'SELECT sum(t.v) FROM seq_1_to_{lookups} s STRAIGHT_JOIN %s t ON t.id = 1 + (s.seq * 104729) %% {rows}'

WORKLOADS = {
    'copy': copying('accounts'),
    'copy_noise': copying('noise'),
    'copy_indexes': copying('facts', 'ADD INDEX (k), ADD INDEX (v), ADD INDEX (k, v)'),
    'insert_select': insert_select,
    'nested': reading(NESTED % 'facts'),
    'nested_noise': reading(NESTED % 'noise'),
    'plpgsql': loop,
    'sum': reading('SELECT sum(abalance) FROM accounts'),
    'sum_noise': reading('SELECT sum(v) FROM noise IGNORE INDEX (noise_k)'),
    'count': reading('SELECT count(*) FROM accounts'),
    'bitmap': reading('SELECT sum(v) FROM facts FORCE INDEX (facts_k) WHERE k BETWEEN 1000 AND {to}'),
    'update': changing('facts', f'UPDATE t SET v = v + 1 WHERE {TENTH}'),
    'update_noise': changing('noise', f'UPDATE t SET v = v + 1 WHERE {TENTH}'),
    'update_indexed': changing('facts', f'UPDATE t SET k = k + 1 WHERE {TENTH}'),
    'delete': changing('facts', f'DELETE FROM t WHERE {TENTH}'),
    'create_index': changing('facts', 'CREATE INDEX t_k ON t (k)', False),
}
