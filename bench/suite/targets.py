"""What orbit is meant to reach, all as: so many times better than heap in the same run.

A row of the table is a figure of a workload.  Targets are of tables in memory."""

# workload, figure, what the ratio must be at least
RATIOS = [
    ('copy', 'seconds', 1.2),
    ('copy_noise', 'seconds', 1.2),
    ('insert_1', 'tps', 1.0),
    ('insert_16', 'tps', 1.0),
    ('insert_async', 'tps', 1.0),
    ('select_1', 'tps', 0.95),
    ('select_4', 'tps', 0.95),
    ('select_16', 'tps', 0.95),
    ('nested', 'seconds', 0.7),
    ('nested_noise', 'seconds', 0.7),
    ('range_100', 'tps', 0.9),
    ('range_10000', 'tps', 0.9),
    ('range_10000_noise', 'tps', 0.9),
    ('range_k_100', 'tps', 0.9),
    ('range_k_10000', 'tps', 0.9),
    ('sum', 'seconds', 1.2),
    ('sum_noise', 'seconds', 1.2),
    ('sum_parallel', 'seconds', 1.2),
    ('count', 'seconds', 1.2),
    ('bitmap', 'seconds', 1.2),
    ('bitmap_noise', 'seconds', 1.2),
    ('update', 'seconds', 2.0),
    ('update_noise', 'seconds', 2.0),
    ('update_indexed', 'seconds', 1.0),
    ('update_indexed_noise', 'seconds', 1.0),
    ('tpcb', 'tps', 1.1),
    ('tpcb', 'wal', 1 / 0.6),
    ('delete', 'seconds', 1.5),
    ('delete_noise', 'seconds', 1.5),
    ('queue', 'tps', 1.0),
    ('vacuum', 'seconds', 3.0),
    ('copy', 'table_bytes_rest', 8.0),
    ('copy_noise', 'table_bytes_rest', 1.0),
    ('churn', 'table_bytes_rest', 3.0),
    ('churn_noise', 'table_bytes_rest', 3.0),
    ('sustained', 'p999', 0.5),
]

# workload, figure, words, whether it is met by heap's and orbit's medians
ABSOLUTE = [
    ('queue', 'flat', 'orbit >= 0.9', lambda heap, orbit: orbit >= 0.9),
    ('first', 'seconds', 'orbit <= 10 ms', lambda heap, orbit: orbit <= 10),
    ('idle', 'idle_bytes', 'orbit <= heap + 8 MB', lambda heap, orbit: orbit <= heap + 8),
]


def judge(workload, figure, heap, orbit, ratio):
    """(words, met), or None where there is no target."""
    for name, which, least in RATIOS:
        if (name, which) == (workload, figure):
            return f'>= {least:.3g}', ratio is not None and ratio >= least
    for name, which, words, met in ABSOLUTE:
        if (name, which) == (workload, figure):
            return words, met(heap, orbit)
    return None


def figures_of(workload):
    """Figures of a workload, beside its main one, that have a target."""
    return [which for name, which, *_ in RATIOS + ABSOLUTE if name == workload]
