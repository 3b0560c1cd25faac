# An index built on the primary leaves out rows, and older versions of rows, that nobody there sees any more.
# A snapshot of the standby that still sees them must not be answered from that index: whoever holds
# it is cancelled first.  Where nothing is left out nobody is.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node orbit_standby);
use OrbitSession;
use Test::More;
use Time::HiRes qw(sleep time);

my $primary = orbit_node('primary', { allows_streaming => 1 }, 'autovacuum = off', 'hot_standby_feedback = off', 'max_standby_streaming_delay = 0',
	'orbit.reclaim_threshold = 1', 'orbit.reclaim_delay = 0', 'wal_receiver_status_interval = 1s', 'wal_retrieve_retry_interval = 100ms',
	'min_parallel_table_scan_size = 0');
$primary->safe_psql('postgres', 'CREATE TABLE other AS SELECT 1 AS n; CREATE TABLE ticks (n int); CREATE EXTENSION pg_walinspect; CREATE EXTENSION amcheck');
my $standby = orbit_standby($primary);
my ($there, $here) = map { OrbitSession->new($_, 'postgres', 60) } $primary, $standby;

sub sql
{
	my @answers = map { $there->ask($_) // die "no answer: $_" } split /;\s*/, shift;
	for (@answers) { die $_ if /ERROR|FATAL/ }
	return $answers[-1];
}

# Asks until the answer is the right one.
sub comes_true
{
	my ($s, $question) = @_;
	my $until = time + 60;
	while (($s->ask($question) // '') ne 't')
	{
		return 0 if time > $until;
		sleep 0.02;
	}
	return 1;
}

sub replayed
{
	my $lsn = sql('SELECT pg_current_wal_insert_lsn()');
	return comes_true($here, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
}

# ---- one table, one change, one index --------------------------------------------------

my %answer = (
	t_pkey => 'SELECT count(*), sum(id), sum(k) FROM t WHERE id BETWEEN 0 AND 999',
	t_k => 'SELECT count(*), sum(id), sum(k) FROM t WHERE k BETWEEN 0 AND 999');
my %build = (
	'REINDEX' => [ 't_pkey', 'REINDEX INDEX t_pkey' ],
	'parallel REINDEX' => [ 't_pkey', 'REINDEX INDEX t_pkey' ],
	'REINDEX CONCURRENTLY' => [ 't_pkey', 'REINDEX INDEX CONCURRENTLY t_pkey' ],
	'amcheck, without a build' => [ 't_pkey', q{SELECT bt_index_check('t_pkey', true)} ],
	'VACUUM FULL' => [ 't_pkey', 'VACUUM FULL t' ],
	'CLUSTER' => [ 't_pkey', 'CLUSTER t USING t_pkey' ],
	'CREATE INDEX' => [ 't_k', 'CREATE INDEX t_k ON t (k)' ],
	'CREATE INDEX CONCURRENTLY' => [ 't_k', 'CREATE INDEX CONCURRENTLY t_k ON t (k)' ]);
my %change = (
	'nothing' => 'SELECT 1',
	'undone' => 'BEGIN; SELECT count(*) FROM (SELECT FROM t FOR UPDATE) s; COMMIT; BEGIN; DELETE FROM t; ROLLBACK; BEGIN; UPDATE t SET k = -1; ROLLBACK',
	'deleted' => 'DELETE FROM t WHERE id % 3 = 0',
	'replaced in place' => 'UPDATE t SET k = k + 5000 WHERE id % 3 = 0',
	'replaced' => 'UPDATE t SET id = id + 5000 WHERE id % 3 = 0');

# Where the change lies when the index is built.
my %space = (
	'in write buffers' => sub { return },
	'flushed' => sub { sql('SELECT orbit_flush()') },
	'compacted' => sub {
		my $n = sql('SELECT pages_pruned FROM orbit_stat_reclaim()');
		my $until = time + 180;
		do
		{
			die 'it is not compacted' if time > $until;
			# only what is in files is compacted, and only when other transactions have come since
			sql('INSERT INTO ticks VALUES (1); SELECT orbit_flush()');
			sleep 0.1;
		} while (sql("SELECT pages_pruned <= $n OR running FROM orbit_stat_reclaim()") eq 't');
	});

sub make_table
{
	my ($am, $workers) = @_;
	return sql(qq{DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, k int, v text) USING $am WITH (fillfactor = 50, parallel_workers = $workers);
		INSERT INTO t SELECT g, g, repeat('v', 20) FROM generate_series(1, 300) g; SELECT orbit_flush()});
}

my $feedback = 0;

# Has a snapshot; with feedback the primary knows of it.
sub old_reader
{
	my $reader = OrbitSession->new($standby, 'postgres', 60);
	$reader->ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $xmin = $reader->ask('SELECT pg_snapshot_xmin(pg_current_snapshot()) FROM other');
	comes_true($there, "SELECT count(*) = 1 FROM pg_stat_replication WHERE backend_xmin::text::bigint <= $xmin") or die 'no feedback' if $feedback;
	return $reader;
}

sub setting
{
	my (@settings) = @_;
	$standby->append_conf('postgresql.conf', join("\n", @settings, ''));
	$standby->reload;
	return;
}

sub by_index
{
	my ($reader, $index) = @_;
	return eval { $reader->ask("SET enable_seqscan = off; $answer{$index}") } // $reader->{out};
}

my $cancelled = qr/conflict with recovery|server closed the connection|connection to server was lost/;

# What a reader of the standby gets whose snapshot is older than the change, and who touches the table only when the
# index has been built: "right", "cancelled", or something that is wrong; and whether the build logged a conflict.
sub result
{
	my ($am, $change, $space, $build) = @_;
	my ($index, $command) = @{ $build{$build} };
	make_table($am, $build =~ /parallel/ ? 1 : 0);
	replayed();
	my $right = $here->ask($answer{$index});
	my $reader = old_reader();
	sql($change{$change});
	$space{$space}->();
	my $from = sql('SELECT pg_current_wal_flush_lsn()');
	sql($command);
	sql('INSERT INTO ticks VALUES (2)');
	my $logged = sql(qq{SELECT count(*) FROM pg_get_wal_records_info('$from', pg_current_wal_flush_lsn()) WHERE resource_manager = 'orbit' AND record_type = 'CLEANUP'});
	replayed() or return 'it is not replayed';
	my $seen = by_index($reader, $index);
	$reader->quit;
	return 'amcheck on the standby fails' if $build =~ /amcheck/ and $here->ask($command) ne '';
	return ($seen eq $right ? 'right' : $seen =~ $cancelled ? 'cancelled' : "wrong: $seen instead of $right") . ($logged ? ', logged' : '');
}

for my $build (sort keys %build)
{
	for my $change (sort keys %change)
	{
		my $harmless = $change =~ /nothing|undone/ || $build =~ /amcheck/ || $change eq 'replaced in place' && $build =~ /REINDEX$/;
		my $few = $build =~ /amcheck|parallel|VACUUM|CLUSTER|REINDEX C/;
		next if $few and $change =~ /undone|replaced$/;
		my $compacts = $change eq 'deleted' || $build eq 'CREATE INDEX';
		for my $space ($few || $harmless ? 'flushed' : ('in write buffers', $compacts ? 'compacted' : 'flushed'))
		{
			my $result = result('orbit', $change, $space, $build);
			# several transactions: the later ones may prune, in the catalogs, what the earlier ones did
			$result =~ s/^cancelled$/right/ if $harmless and $build =~ /CONCURRENTLY|VACUUM/;
			is($result, $harmless ? 'right' : 'cancelled, logged', "$build: $change, $space");
		}
	}
}
# what heap does is not ours to test; docs/replication.md tells what was seen
note("heap, $$_[1]: $$_[0]: " . result('heap', $$_[0], 'in write buffers', $$_[1]))
  for [ 'nothing', 'REINDEX' ], [ 'deleted', 'REINDEX' ], [ 'deleted', 'CREATE INDEX' ], [ 'replaced in place', 'CREATE INDEX' ], [ 'deleted', 'CREATE INDEX CONCURRENTLY' ],
  [ 'deleted', 'CLUSTER' ], [ 'deleted', 'VACUUM FULL' ];

# ---- a reader who waits for the index that is rebuilt, while replay waits for the reader, without limit
setting('max_standby_streaming_delay = -1');
make_table('orbit', 0);
replayed();
my ($idle, $reader) = (old_reader(), old_reader());
sql('DELETE FROM t WHERE id % 3 = 0; BEGIN; REINDEX INDEX t_pkey');
# the log up to here leaves with somebody else's commit
$primary->safe_psql('postgres', 'SELECT pg_current_xact_id()');
ok(comes_true($here, q{SELECT wait_event = 'RecoveryConflictSnapshot' FROM pg_stat_activity WHERE backend_type = 'startup'}), 'replay waits for old snapshots');
like(by_index($reader, 't_pkey'), $cancelled, 'who then waits for its lock is cancelled');
sql('COMMIT');
is($here->ask(q{SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'}), 'RecoveryConflictSnapshot', 'who does not is waited for');
is($idle->ask('SELECT n FROM other'), 1, 'and can go on');
$idle->ask('COMMIT');
ok(replayed(), 'until it ends');
is($idle->ask("SET enable_seqscan = off; $answer{t_pkey}"), sql($answer{t_pkey}), 'and sees what is left');
$_->quit for $idle, $reader;

# ---- with feedback rows and versions that a query of the standby sees are not left out
setting('max_standby_streaming_delay = 0', 'hot_standby_feedback = on');
$feedback = 1;
for my $build ('REINDEX', 'CREATE INDEX')
{
	is(result($_, 'deleted', 'flushed', $build), 'right', "feedback, $_, $build: deleted") for 'heap', 'orbit';
	is(result($_, 'replaced in place', 'flushed', $build), 'right', "feedback, $_, $build: replaced in place") for 'heap', 'orbit';
}
# it does not wait for queries of standbys
is(result('orbit', 'deleted', 'flushed', 'CREATE INDEX CONCURRENTLY'), 'cancelled, logged', 'feedback, CREATE INDEX CONCURRENTLY: deleted');
note('heap, with feedback, CREATE INDEX CONCURRENTLY: deleted: ' . result('heap', 'deleted', 'flushed', 'CREATE INDEX CONCURRENTLY'));

$_->quit for $here, $there;
$standby->stop;
$primary->stop;
done_testing();
