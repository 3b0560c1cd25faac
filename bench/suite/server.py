"""The server in a scratch directory, and the programs that talk to it."""
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time


class Failure(Exception):
    """A measurement that cannot be used, in words for the user."""


class Server:
    USER = 'bench'

    def __init__(self, settings):
        self.keep = settings.keep
        self.bindir = os.environ['BINDIR']
        self.owner = os.environ['OWNER'] if os.getuid() == 0 else None
        self.scratch = tempfile.mkdtemp(prefix='orbit_fdw_bench.', dir=settings.bench_dir)
        os.chmod(self.scratch, 0o755)
        if self.owner:
            user = pwd.getpwnam(self.owner)
            os.chown(self.scratch, user.pw_uid, user.pw_gid)
        self.data = self.path('data')
        self.log = self.path('server.log')
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith('PG')}
        self.environ.update(PGHOST=self.scratch, PGPORT='5432', PGUSER=self.USER, LC_ALL='C')
        self.controls = {}

    def path(self, *parts):
        return os.path.join(self.scratch, *parts)

    # ---- programs -------------------------------------------------------------------

    def arguments(self, options, session):
        """What subprocess needs to run a program as the server's owner."""
        env = dict(self.environ)
        if options:
            env['PGOPTIONS'] = ' '.join(f'-c {o}' for o in options)
        how = {'env': env, 'cwd': self.scratch, 'text': True, 'start_new_session': session}
        if self.owner:
            user = pwd.getpwnam(self.owner)
            how.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        return how

    def program(self, name):
        return name if '/' in name else os.path.join(self.bindir, name)

    def run(self, name, *args, options=(), timeout=7200, text_in=None):
        """Output of a program of PostgreSQL; a Failure when it fails."""
        args = [self.program(name), *map(str, args)]
        done = subprocess.run(args, input=text_in, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL if text_in is None else None,
                              timeout=timeout, check=False, **self.arguments(options, False))
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            said = [w for w in words if re.search(r'ERROR|FATAL|PANIC|error|fatal', w)] or words[-1:]
            raise Failure(f'{name}: {"; ".join(said[:2]) or done.returncode}')
        return done.stdout

    # ---- its life -------------------------------------------------------------------

    def make(self, lines):
        self.run('initdb', '-D', self.data, '-U', self.USER, '-A', 'trust', '--no-locale', '-E', 'UTF8')
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf8') as conf:
            conf.write('\n'.join(["listen_addresses = ''", f"unix_socket_directories = '{self.scratch}'",
                                  "shared_preload_libraries = 'orbit_fdw'", *lines]) + '\n')

    def start(self, options='', prefix=()):
        """prefix: a command that runs pg_ctl, as under a memory limit."""
        args = [self.program('pg_ctl'), '-D', self.data, '-l', self.log, '-w', '-t', '3600', '-s']
        if options:
            args += ['-o', options]
        how = self.arguments((), True)
        if prefix:      # it needs root's rights, and gives them up by itself
            for key in ('user', 'group', 'extra_groups'):
                how.pop(key, None)
        done = subprocess.run([*prefix, *args, 'start'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=3700, check=False, **how)
        if done.returncode != 0:
            raise Failure(f'the server does not start: {self.last_words()} {done.stderr.strip()}')

    def close_controls(self):
        while self.controls:
            self.controls.popitem()[1].close()

    def stop(self, mode='fast'):
        self.close_controls()
        self.run('pg_ctl', '-D', self.data, '-m', mode, '-w', '-t', '3600', '-s', 'stop')

    def revive(self, options=''):
        """After a failure: returns when the server takes connections again."""
        self.close_controls()
        if not self.postmaster():
            self.start(options)
        limit = time.monotonic() + 600
        while True:
            try:
                self.run('psql', '-X', '-q', '-At', '-d', 'postgres', '-c', 'SELECT 1')
                return
            except Failure:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.5)

    def last_words(self):
        try:
            with open(self.log, encoding='utf8', errors='replace') as log:
                lines = log.read().splitlines()
        except OSError:
            return ''
        return lines[-1] if lines else ''

    def postmaster(self):
        """Its process id, or None."""
        try:
            with open(os.path.join(self.data, 'postmaster.pid'), encoding='utf8') as f:
                pid = int(f.readline())
            os.kill(pid, 0)
            return pid
        except (OSError, ValueError):
            return None

    def clean_up(self):
        if self.postmaster():
            try:
                self.stop('fast' if self.keep else 'immediate')
            except (Failure, subprocess.SubprocessError) as e:
                print(f'  {e}')
        if self.keep:
            print(f'Kept {self.scratch}')
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)

    # ---- statements -----------------------------------------------------------------

    def sql(self, db, *statements):
        """The output of all of them, as psql -At prints it; by a session that stays for such things."""
        if db not in self.controls:
            self.controls[db] = Session(self, db)
        try:
            return '\n'.join(line for statement in statements for line in self.controls[db].ask(statement))
        except Failure:
            self.controls.pop(db).close()
            raise

    def control_pids(self):
        return {session.pid for session in self.controls.values()}

    def script(self, db, text):
        return self.run('psql', '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', '-d', db, text_in=text)

    def number(self, db, statement):
        return int(float(self.sql(db, statement) or 0))


class Session:
    """A connection that stays: psql at the other end of a pipe, with timing on."""

    def __init__(self, server, db, options=()):
        args = [server.program('psql'), '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', '-d', db]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, bufsize=1, **server.arguments(options, True))
        self.pid = int(self.ask('SELECT pg_backend_pid()')[0])

    def talk(self, text):
        """Sends lines, returns what comes back before the mark."""
        lines = []
        try:
            self.process.stdin.write(text + '\n\\echo =done=\n')
            self.process.stdin.flush()
        except OSError:
            pass
        for line in self.process.stdout:
            if line == '=done=\n':
                return lines
            lines.append(line.rstrip('\n'))
        said = [line for line in lines if re.search(r'ERROR|FATAL|PANIC|server closed', line)] or lines[-2:]
        raise Failure('; '.join(said) or 'a session has ended')

    def ask(self, statement):
        return self.talk(statement + ';')

    def time(self, statement):
        """Seconds that psql measured, and the output."""
        lines = self.talk(f'\\timing on\n{statement};\n\\timing off')
        times = [float(m.group(1)) for m in map(re.compile(r'Time: ([0-9.]+) ms').match, lines) if m]
        if len(times) != 1:
            raise Failure(f'no time of: {statement[:60]}')
        return times[0] / 1000, [line for line in lines if not line.startswith('Time: ')]

    def close(self):
        """Returns when the backend is gone."""
        try:
            self.process.stdin.close()
            self.process.wait(timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        limit = time.monotonic() + 10
        while os.path.exists(f'/proc/{self.pid}') and time.monotonic() < limit:
            time.sleep(0.01)
