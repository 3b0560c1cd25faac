"""What can be chosen, all by variables of the environment (make passes its own on)."""
import os

# name, default, default with QUICK=1, meaning
VARIABLES = [
    ('QUICK', 0, 0, 'small tables and short runs: at most 10 minutes'),
    ('MINUTES', 0, 9, 'time after which no other workload begins; what is left out is named; 0: no limit'),
    ('ONLY', '', '', 'some workloads or groups only: ONLY="copy select tpcb"'),
    ('ROUNDS', 3, 3, 'runs of each workload on heap and orbit, in turn'),
    ('SCALE', 20, 2, "pgbench's scale of the tables: 100,000 rows each"),
    ('TPCB_SCALE', 30, 6, "pgbench's scale of the tables that TPC-B changes"),
    ('LOAD', 10, 2, 'seconds of each run of pgbench; half of it where it only reads'),
    ('READ', 2, 0.3, 'seconds for which a short query is repeated in each run'),
    ('LOOKUPS', 500000, 30000, 'lookups by nested loop, and in PL/pgSQL'),
    ('QUEUE', 150, 4, 'seconds of each run of the queue'),
    ('SUSTAINED', 60, 4, 'seconds of the sustained write load'),
    ('CHURN_ROWS', 500000, 30000, 'rows of the table that is updated ten times'),
    ('FILES', 1000, 40, 'tables made for the first query: about as many SST files'),
    ('IDLE', 10, 1, 'seconds that sessions sit idle before their memory is read'),
    ('REST', 90, 3, 'seconds for which at most is waited until compactions come to rest'),
    ('LARGE_ROWS', 5000000, 300000, 'rows of the table that is larger than memory'),
    ('LARGE_MEMORY', '256MB', '48MB', 'memory of the whole server then'),
    ('CGROUP', '', '', 'an empty memory control group (a directory) made for this; else systemd-run, else a dropped cache'),
    ('SEED', 1, 1, "pgbench's random seed"),
    ('GROWTH', 0, 0, 'how cost grows with the number of rows, instead of the workloads'),
    ('GROWTH_ROWS', '1000000 10000000 50000000', '100000 400000 1600000', 'the numbers of rows'),
    ('MYROCKS', '/usr', '/usr', 'where MariaDB with mariadb-plugin-rocksdb is, for a third column; none: no'),
    ('CONF', '', '', "more of the server's settings, one a line"),
    ('BENCH_DIR', '/tmp', '/tmp', 'where the scratch directory is made: on the disk to be measured'),
    ('OUT', '', '', 'directory of the results (build/bench)'),
    ('KEEP', 0, 0, 'keep the scratch directory'),
]


class Settings:
    """Variables as attributes in lower case; numbers where the default is one."""

    def __init__(self, environ=os.environ):
        quick = environ.get('QUICK', '') not in ('', '0')
        for name, default, quick_default, _ in VARIABLES:
            default = quick_default if quick else default
            text = environ.get(name, '')
            setattr(self, name.lower(), self.convert(name, text, default))
        self.quick = quick
        self.rows = self.scale * 100000
        if not self.out:
            self.out = os.path.join(environ.get('TOP', os.getcwd()), 'build', 'bench')

    @staticmethod
    def convert(name, text, default):
        if text == '':
            return default
        if not isinstance(default, (int, float)):
            return text
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            raise SystemExit(f'orbit_fdw: {name}={text}: not a number') from None

    def as_dict(self):
        return {name: getattr(self, name.lower()) for name, *_ in VARIABLES}


def size_bytes(text):
    """256MB as a number."""
    units = {'kB': 1 << 10, 'MB': 1 << 20, 'GB': 1 << 30}
    for unit, factor in units.items():
        if text.endswith(unit):
            return int(text[:-len(unit)]) * factor
    return int(text)


def help_text(workloads):
    lines = ['usage: make bench [VARIABLE=value]...    or [VARIABLE=value]... bench/run.sh',
             '',
             'Orbit beside heap on one server, in turn; a release build must be installed.',
             'Results: build/bench/results.md, results.json, chart.svg.',
             '',
             'variable       default        QUICK=1   meaning']
    for name, default, quick, meaning in VARIABLES:
        lines.append(f'{name:14} {str(default):14} {"" if quick == default else str(quick):9} {meaning}'.rstrip())
    lines += ['', 'workloads, by group:']
    groups = {}
    for w in workloads:
        groups.setdefault(w.group, []).append(w)
    for group, members in groups.items():
        lines.append(f'  {group}')
        lines += [f'    {w.name:22} {w.text}' + ('' if w.quick else ' (not with QUICK=1)') for w in members]
    return '\n'.join(lines)
