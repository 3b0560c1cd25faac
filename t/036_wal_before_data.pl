# WAL before data.  Nothing is in RocksDB whose record is not on disk, nor the commit
# record that freezing it relied on: otherwise a crash leaves RocksDB with rows of a
# transaction that the log does not know, or ahead of a log that goes on behind it.
#
# Commits are asynchronous and the WAL writer stands still, so what nobody flushes is
# in PostgreSQL's WAL buffers only, and kill -9 of everything loses it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use OrbitNode qw(orbit_node orbit_standby stop_at clear_stop wait_stopped in_background wait_done
  children kill_all_and_start);
use OrbitPair qw(create_pair pair_is_same);

my $node = orbit_node(
	'main', { allows_streaming => 1 },
	'synchronous_commit = off', q{wal_writer_delay = '10s'}, q{wal_buffers = '8MB'}, 'bgwriter_lru_maxpages = 0',
	'autovacuum = off', q{orbit.flush_interval = '1h'}, q{checkpoint_timeout = '1h'}, 'fsync = off');

sub query { return $node->safe_psql('postgres', $_[0]) }

sub hold_wal_writer
{
	my %title = children($node->{_pid});
	my @writer = grep { $title{$_} =~ /walwriter/ } keys %title;
	is(scalar @writer, 1, 'the WAL writer stands still');
	kill 'STOP', @writer;
	return;
}

# Bytes of the log that kill -9 would lose.
sub unflushed { return query('SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn()') }

# Whoever then reads the catalogs may prune a page of them, which writes an image of it.
sub flush_log
{
	for (1 .. 10)
	{
		query(q{SET synchronous_commit = on; UPDATE flushed SET n = n + 1});
		last if unflushed() < 100;
	}
	return;
}

sub rocksdb_is_behind_log
{
	is(query('SELECT flushed_lsn <= pg_current_wal_flush_lsn() FROM orbit_stat_storage()'), 't', $_[0]);
	return;
}

# The log that could be lost is lost, and the tables agree about what is left of it.
sub crash
{
	my ($what, @sessions) = @_;
	kill_all_and_start($node);
	eval { $_->quit } for @sessions;
	pair_is_same($node, "$what: kill -9 of everything") or BAIL_OUT('the next tests would hide the cause');
	hold_wal_writer();
	return;
}

create_pair($node);
query(q{CREATE TABLE flushed (n INT) USING heap; INSERT INTO flushed VALUES (0); CALL churn(1, 300, 600, 1); SELECT orbit_flush(); CHECKPOINT});
hold_wal_writer();

# ---- the rows' own records (K10) ------------------------------------------------------

query('CALL churn(1, 300, 200, 2)');
cmp_ok(unflushed(), '>', 10_000, 'rows were written of which nothing is on disk');
my $lost = query('SELECT count(*) FROM r');
query('SELECT orbit_flush()');
rocksdb_is_behind_log('rows: RocksDB is not ahead of the log');
crash('rows');
is(query('SELECT count(*) FROM r'), $lost, 'what was flushed to RocksDB is there');

# In the middle of a flush, with a transaction that is under way in the flushed write buffer
# and commits later, and others in the next one.
for my $point (qw(flush-before-ingest flush-after-ingest worker-after-flush))
{
	query('CALL change(0, 9000, 1)');
	my $open = $node->background_psql('postgres');
	$open->query_safe(q{BEGIN; CALL change(0, 9001, 1); SAVEPOINT a; CALL change(0, 9002, 1); CALL change(4, 9000, 1); RELEASE a;
		SAVEPOINT b; CALL change(3, 9001, 7); CALL change(0, 9003, 1); ROLLBACK TO b});
	query('CALL churn(1, 300, 100, 3)');
	stop_at($node, $point);
	my $flush = in_background($node, 'SELECT orbit_flush(); CHECKPOINT');
	wait_stopped($node, $point);
	$open->query_safe(q{CALL change(2, 9001, 3); COMMIT});
	query('CALL churn(1, 300, 100, 4)');
	rocksdb_is_behind_log("$point: RocksDB is not ahead of the log");
	crash($point, $open, $flush);
}

# ---- the commit that freezing relied on (K5, R19) ----------------------------------------

# A transaction's records are on disk, its commit is not; what it did is frozen.
for my $change (
	[ 'an insertion', q{INSERT INTO r VALUES (7001, 5, 5, 'x'); INSERT INTO h VALUES (7001, 5, 5, 'x')} ],
	[ 'an update in place', 'CALL change(2, 7000, 5)' ],
	[ 'an update to a new row', 'CALL change(3, 7000, 6)' ],
	[ 'a deletion', 'CALL change(4, 7000, 5)' ],
	[ 'subtransactions', 'SAVEPOINT a; CALL change(0, 7002, 5); RELEASE a; SAVEPOINT b; CALL change(4, 7000, 5); RELEASE b; CALL change(5, 7002, 5)' ])
{
	my ($what, $sql) = @$change;
	my $session;
	my $behind = 0;
	# the storage worker flushes the log now and then for the horizon of compactions, perhaps just now
	for (1 .. 5)
	{
		query('DELETE FROM r WHERE k >= 7000; DELETE FROM h WHERE k >= 7000; CALL change(0, 7000, 5)');
		query('SELECT orbit_flush()');
		$session = $node->background_psql('postgres');
		$session->query_safe("BEGIN; $sql");
		flush_log();
		cmp_ok(unflushed(), '<', 100, "$what: the records are on disk");
		$session->query_safe('COMMIT');
		$behind = unflushed();
		last if $behind > 0;
		$session->quit;
	}
	cmp_ok($behind, '>', 0, "$what: the commit is not");
	stop_at($node, 'flush-after-ingest');
	my $flush = in_background($node, 'SELECT orbit_flush()');
	wait_stopped($node, 'flush-after-ingest');
	crash($what, $session, $flush);
}

# ---- numbers ------------------------------------------------------------------------------

# Rows go on to be inserted after all those crashes: none of their numbers is used twice.
query('CALL churn(301, 600, 600, 5); SELECT orbit_flush(); CALL churn(301, 600, 300, 6)');
pair_is_same($node, 'insertion goes on');
is(query('SELECT count(*) = count(DISTINCT ctid) FROM r'), 't', 'each row is at a place of its own');

# ---- a standby: the minimum recovery point ----------------------------------------------------

kill 'CONT', grep { kill 0, $_ } keys %{ { children($node->{_pid}) } };
query('ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()');
my $standby = orbit_standby($node);

sub on_standby { return $standby->safe_psql('postgres', $_[0]) }

query('CALL churn(1, 300, 200, 7)');
$node->wait_for_catchup($standby);
on_standby('SELECT orbit_flush()');
is(on_standby('SELECT flushed_lsn <= min_recovery_end_lsn FROM orbit_stat_storage(), pg_control_recovery()'),
	't', 'recovery does not end before what RocksDB holds');

# A lock is left out because its transaction's end was replayed, from behind the write buffer.  The worker's own
# work moves the point as well, now and then.
my $end;
my $early = 'f';
for my $key (7000 .. 7020)
{
	query(qq{CALL change(0, $key, 1); CHECKPOINT});
	$node->wait_for_catchup($standby);
	on_standby('CHECKPOINT');
	query(qq{BEGIN; SELECT FROM r WHERE k = $key FOR UPDATE; PREPARE TRANSACTION 'p'});
	$node->wait_for_catchup($standby);
	on_standby('CHECKPOINT');	# no restartpoint, but moves the point
	query(q{COMMIT PREPARED 'p'});
	$end = query('SELECT pg_current_wal_flush_lsn()');
	$node->wait_for_catchup($standby);
	$early = on_standby("SELECT min_recovery_end_lsn < '$end' FROM pg_control_recovery()");
	last if $early eq 't';
}
is($early, 't', 'recovery might end before the commit of a locker');
on_standby('SELECT orbit_flush()');
is(on_standby("SELECT min_recovery_end_lsn >= '$end' FROM pg_control_recovery()"), 't',
	'not after a flush that left out its lock');

# The same for many locks, which would be a page full of them.
my $before = on_standby('SELECT bytes_flushed FROM orbit_stat_storage()');
query(q{DO $$ BEGIN FOR i IN 1 .. 2000 LOOP PERFORM FROM r WHERE k = 7000 FOR KEY SHARE; COMMIT; END LOOP; END $$});
$node->wait_for_catchup($standby);
on_standby('SELECT orbit_flush()');
my $bytes = on_standby('SELECT bytes_flushed FROM orbit_stat_storage()') - $before;
cmp_ok($bytes, '<', 5000, "2000 finished locks are not flushed on a standby ($bytes bytes)");

$standby->stop;
$node->stop;
done_testing();
