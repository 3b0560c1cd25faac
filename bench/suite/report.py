"""Medians, the table, and the files results.md and results.json."""
import os
import statistics
import subprocess

from . import targets
from .measure import dump

# figure: words after the workload's, unit, better, divisor
FIGURES = {
    'wal': ('WAL', 'B', 'less', 1),
    'written': ('bytes written', 'B', 'less', 1),
    'table_bytes': ('table on disk after a checkpoint', 'MB', 'less', 1e6),
    'table_bytes_rest': ('table on disk after compaction', 'MB', 'less', 1e6),
    'p999': ('p99.9', 'ms', 'less', 1),
    'flat': ('last 30 % of its time over first', '', 'more', 1),
}


def show(value, unit=''):
    """Three digits that count."""
    if value is None:
        return ''
    a = abs(value)
    digits = 0 if a >= 100 else 1 if a >= 10 else 2 if a >= 1 else 3
    return f'{value:,.{digits}f}' + (f' {unit}' if unit else '')


def values(samples, figure):
    return [s[figure] for s in samples if figure in s]


def median(samples, figure):
    found = values(samples, figure)
    return statistics.median(found) if found else None


def ratio(heap, orbit, better):
    """Above 1: orbit is better."""
    if heap is None or orbit is None or heap <= 0 or orbit <= 0:
        return None
    return heap / orbit if better == 'less' else orbit / heap


def row(workload, results, figure):
    """One line of the table, or None when there is nothing to compare."""
    main = figure == workload.metric
    words, unit, better, divisor = ('', workload.unit, workload.better, 1) if main else FIGURES[figure]
    heap, orbit = (median(results[am], figure) for am in ('heap', 'orbit'))
    if heap is None or orbit is None:
        return None
    if figure in ('wal', 'written') and workload.per:
        unit += '/' + workload.per
    times = ratio(heap, orbit, better)
    judged = targets.judge(workload.name, figure, heap, orbit, times)
    return {
        'workload': workload.name, 'figure': figure, 'text': workload.text if main else f'{workload.name}: {words}',
        'unit': unit, 'better': better, 'myrocks': median(results.get('myrocks', []), figure), 'heap': heap / divisor, 'orbit': orbit / divisor, 'ratio': times,
        'spread': {am: [f(values(results[am], figure)) / divisor for f in (min, max)] for am in ('heap', 'orbit')},
        'target': judged[0] if judged else None, 'met': judged[1] if judged else None,
    }


def rows(workloads, results):
    """The main figure of each workload, then its others that have a target."""
    lines = []
    for w in workloads:
        if w.name in results:
            figures = [w.metric] + [f for f in targets.figures_of(w.name) if f != w.metric]
            lines += [r for r in (row(w, results[w.name], f) for f in figures) if r]
    return lines


def spread(r, am):
    low, high = r['spread'][am]
    return f'{show(low)} .. {show(high)}'


def main_table(lines):
    third = any(r['myrocks'] is not None for r in lines)
    out = ['| workload | | heap | orbit | ratio | spread of heap | of orbit | target | |' + (' MyRocks |' if third else ''),
           '|---' * (10 if third else 9) + '|']
    for r in lines:
        name = r['workload'] if not r['text'].startswith(r['workload'] + ':') else ''
        cells = [name, r['text'], show(r['heap'], r['unit']), show(r['orbit'], r['unit']), show(r['ratio']),
                 spread(r, 'heap'), spread(r, 'orbit'), r['target'] or '',
                 '' if r['met'] is None else 'met' if r['met'] else 'NOT MET']
        if third:
            cells.append(show(r['myrocks'], r['unit']))
        out.append('| ' + ' | '.join(cells) + ' |')
    return out


def pair(results, name, figure, divisor=1):
    cells = [median(results[name][am], figure) for am in ('heap', 'orbit')]
    return ' / '.join('-' if c is None else show(c / divisor) for c in cells)


def detail_table(title, workloads, results, columns):
    """columns: (heading, figure, divisor); a workload without any of them is left out."""
    out = ['', f'### {title}', '', '| workload | ' + ' | '.join(c[0] for c in columns) + ' |',
           '|---|' + '---|' * len(columns)]
    for w in workloads:
        if w.name not in results:
            continue
        if any(median(results[w.name][am], c[1]) is not None for am in results[w.name] for c in columns):
            out.append(f'| {w.name} | ' + ' | '.join(pair(results, w.name, *c[1:]) for c in columns) + ' |')
    return out if len(out) > 5 else []


def details(workloads, results):
    out = ['', 'Medians, heap / orbit.']
    out += detail_table('Latency, ms', workloads, results, [
        ('p50', 'p50', 1), ('p95', 'p95', 1), ('p99', 'p99', 1), ('p99.9', 'p999', 1), ('longest', 'max', 1)])
    out += detail_table('WAL and writes, kB; a transaction where pgbench runs', workloads, results, [
        ('WAL', 'wal', 1e3), ('full pages in it, pages', 'full_pages', 1), ('written to disk until after a checkpoint', 'written', 1e3),
        ('seconds of that checkpoint', 'settle_seconds', 1)])
    sizes = ['table_bytes', 'table_bytes_rest', 'index_bytes', 'index_bytes_rest']
    headings = ['table after a checkpoint', 'after compaction, heap after VACUUM', 'indexes after a checkpoint', 'then']
    for title, inserts, divisor in (('Size on disk, MB', False, 1e6), ('Size on disk, bytes a row', True, 1)):
        out += detail_table(title, [w for w in workloads if (w.group == 'insert') == inserts], results,
                            [(heading, figure, divisor) for heading, figure in zip(headings, sizes)])
    out += detail_table('Peak memory, MB (RssAnon)', workloads, results, [
        ('largest backend', 'memory_backend', 1e6), ('all backends together', 'memory_backends', 1e6),
        ('orbit storage worker', 'memory_worker', 1e6)])
    return out


def series(results):
    out = []
    if 'first' in results:
        out += ['', f"SST files for the first query: {median(results['first']['orbit'], 'sst_files'):.0f}"]
    for name, by_am in results.items():
        if any('series' in s for s in by_am['orbit']):
            out += ['', f'{name}, transactions/s in each tenth of its time, last run:', '']
            for am in ('heap', 'orbit'):
                runs = values(by_am[am], 'series')
                if runs:
                    out.append(f'- {am}: ' + ' '.join(f'{n:.0f}' for n in runs[-1]))
    return out


# ---- where it was measured -----------------------------------------------------------------

def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ''


def environment(server):
    """What a figure depends on."""
    settings = server.sql('postgres', """SELECT name || ' = ' || current_setting(name) FROM pg_settings
        WHERE name LIKE 'orbit.%' OR name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum',
            'autovacuum_naptime', 'wal_compression') OR (source = 'configuration file' AND name NOT IN
            ('DateStyle', 'default_text_search_config', 'dynamic_shared_memory_type', 'listen_addresses', 'log_timezone',
             'TimeZone', 'unix_socket_directories') AND name NOT LIKE 'lc\\_%') ORDER BY name""").splitlines()
    with open('/proc/meminfo', encoding='utf8') as f:
        memory = int(f.readline().split()[1]) // 1024
    return {'cores': os.cpu_count(), 'memory_mb': memory, 'kernel': os.uname().release,
            'server': output(os.path.join(server.bindir, 'postgres'), '--version'),
            'file_system': output('stat', '-f', '-c', '%T', server.scratch),
            'commit': output('git', '-C', os.environ.get('TOP', '.'), 'describe', '--always', '--dirty'),
            'date': output('date', '-u', '+%Y-%m-%d %H:%M UTC'), 'settings': settings}


def where(env, settings, limits):
    changed = {k: v for k, v in settings.as_dict().items() if v not in ('', 0) and k not in ('OUT', 'BENCH_DIR', 'KEEP')}
    out = ['', f"{env['cores']} cores, {env['memory_mb']} MB of memory, Linux {env['kernel']}, {env['file_system']}, "
           f"{env['server']}, orbit_fdw {env['commit']}, {env['date']}", '',
           'Chosen: ' + ', '.join(f'{k}={v}' for k, v in changed.items())]
    if limits:
        out += ['', f'Larger than memory: {limits}']
    return out + ['', 'Settings of the server:', '', '```', *env['settings'], '```']


EXPLAINED = """Above 1 the ratio says that orbit is better: heap's median over orbit's for times, bytes and memory, orbit's over heap's
for transactions a second. The spread is from the least to the greatest of the runs. Bytes written are those of
the whole device, so nothing else should write to it. A table's size is without its indexes, which are PostgreSQL's own on both."""


def write(bench, env):
    """results.md and results.json; returns the text."""
    settings, results = bench.settings, bench.results
    lines = rows(bench.workloads, results)
    text = [f"# Orbit beside heap, {settings.rows:,} rows", '', *main_table(lines), '', EXPLAINED]
    if bench.failures:
        text += ['', 'Failed:', ''] + [f'- {name}: {why}' for name, why in bench.failures.items()]
    if bench.left_out:
        text += ['', 'Left out for lack of time: ' + ', '.join(bench.left_out)]
    text += details(bench.workloads, results) + series(results) + where(env, settings, bench.limits)
    os.makedirs(settings.out, exist_ok=True)
    with open(os.path.join(settings.out, 'results.md'), 'w', encoding='utf8') as f:
        f.write('\n'.join(text) + '\n')
    dump(os.path.join(settings.out, 'results.json'), {
        'environment': env, 'chosen': settings.as_dict(), 'larger_than_memory': bench.limits, 'failures': bench.failures,
        'left_out': bench.left_out,
        'rows': lines, 'samples': results})
    return lines
