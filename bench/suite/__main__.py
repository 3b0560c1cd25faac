"""make bench: see the package's own words, and --help."""
import os
import signal
import subprocess
import sys
import time

# the workloads enter themselves into the registry, in this order
from . import chart, data, growth, registry, report, settings as choices
from . import work_load, work_read, work_change, work_other     # noqa: F401
from .limits import Limit
from .measure import DATABASES, Run
from .myrocks import WORKLOADS as ON_MYROCKS, MyRocks, installed
from .server import Failure, Server

CONF = ['shared_buffers = 1GB', "orbit.page_cache_size = '1GB'", 'max_wal_size = 16GB', 'checkpoint_timeout = 30min', 'max_connections = 150', 'jit = off',
        "statement_timeout = '60min'", 'log_checkpoints = off']


class Bench:
    def __init__(self, settings):
        self.settings = settings
        self.begin = time.monotonic()
        self.results = {}
        self.failures = {}
        self.left_out = []
        self.limits = ''
        self.workloads = registry.chosen(settings, False) + registry.chosen(settings, True)
        self.server = None
        self.myrocks = None

    def say(self, words):
        seconds = int(time.monotonic() - self.begin)
        print(f'[{seconds // 60:3}:{seconds % 60:02}] {words}', flush=True)

    def start(self):
        self.say('making the server')
        self.server = Server(self.settings)
        self.server.make(CONF + self.settings.conf.splitlines())
        self.server.start()
        data.make_databases(self)

    # ---- workloads ------------------------------------------------------------------

    def one(self, workload, am, number):
        run = Run(self, am, number, number == self.settings.rounds)
        try:
            return workload.function(run)
        finally:
            run.close()

    def workload(self, w):
        """Its runs in turn; a failure ends this workload only."""
        if 0 < self.settings.minutes * 60 < time.monotonic() - self.begin:
            self.left_out.append(w.name)
            return
        results = {am: [] for am in DATABASES}
        self.results[w.name] = results
        if self.myrocks and w.name in ON_MYROCKS:
            results['myrocks'] = []
        try:
            for number in range(1, self.settings.rounds + 1):
                for am in results:
                    figures = self.myrocks.run(w.name) if am == 'myrocks' else self.one(w, am, number)
                    results[am].append(figures)
                    self.say(f'{w.name} {am} {number}/{self.settings.rounds}: {report.show(figures[w.metric], w.unit)}')
        except (Failure, subprocess.SubprocessError, OSError, KeyError, ValueError) as e:
            self.failures[w.name] = str(e) or type(e).__name__
            self.say(f'{w.name} FAILED: {self.failures[w.name]}')
            del self.results[w.name]
            self.server.revive()
        self.tidy()

    def tidy(self):
        """Nothing of the last workload is left: sessions, tables."""
        kept = ', '.join(map(str, self.server.control_pids() | {0}))
        self.server.sql('orbit', f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid NOT IN (pg_backend_pid(), {kept})""")
        data.drop_changed(self)

    def start_myrocks(self):
        if not installed(self.settings.myrocks):
            return
        self.say('making the tables of MyRocks')
        self.myrocks = MyRocks(self.server, self.settings)
        try:
            self.myrocks.start()
            self.myrocks.make_static()
        except (Failure, subprocess.SubprocessError, OSError) as e:
            self.failures['MyRocks'] = str(e)
            self.say(f'MyRocks FAILED: {e}')
            self.myrocks.stop()
            self.myrocks = None

    def run(self):
        self.start()
        data.make_static(self)
        self.start_myrocks()
        env = report.environment(self.server)
        small = [w for w in self.workloads if not w.large]
        large = [w for w in self.workloads if w.large]
        try:
            for w in small:
                self.workload(w)
                report.write(self, env)
            if large:
                self.run_large(large)
        except (Failure, subprocess.SubprocessError) as e:
            self.failures['all that follows'] = str(e)
        lines = report.write(self, env)
        chart.write(os.path.join(self.settings.out, 'chart.svg'), lines)
        print()
        print('\n'.join(report.main_table(lines)))
        if self.left_out:
            print(f'\nLeft out, for MINUTES={self.settings.minutes} were over: ' + ' '.join(self.left_out))
        print(f'\nAll of it: {self.settings.out}/results.md, results.json, chart.svg')

    def run_large(self, large):
        """The same server again, under a memory limit."""
        limit = Limit(self.server, self.settings)
        try:
            self.server.stop()
            limit.start()
            self.limits = limit.what
            self.say(f'larger than memory: {limit.what}')
            for w in large:
                self.workload(w)
        except (Failure, subprocess.SubprocessError, OSError) as e:
            self.failures['larger than memory'] = str(e)
            self.say(f'larger than memory FAILED: {e}')
        finally:
            limit.stop()

    def clean_up(self):
        if self.myrocks:
            self.myrocks.stop()
        if self.server:
            self.server.clean_up()


def end(_number, _frame):
    raise SystemExit(130)


def main():
    if len(sys.argv) > 1:
        print(choices.help_text(registry.WORKLOADS))
        return 0 if sys.argv[1] == '--help' else 2
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    settings = choices.Settings()
    bench = Bench(settings)
    try:
        if settings.growth:
            growth.run(bench)
        else:
            bench.run()
    except (Failure, subprocess.SubprocessError) as e:
        print(f'orbit_fdw: {e}', file=sys.stderr)
        return 1
    finally:
        bench.clean_up()
    for name, why in bench.failures.items():
        print(f'FAILED: {name}: {why}')
    return 1 if bench.failures else 0


if __name__ == '__main__':
    sys.exit(main())
