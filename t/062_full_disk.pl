# A full disk, met by each call that a flush, a compaction, an ingest of metadata, a shutdown and a start
# make: the log says so, with its SQLSTATE and a hint; rows can be read, writes and checkpoints wait and
# can be cancelled; when there is space again all goes on by itself, and no row is lost, over a
# crash in the middle of it neither.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitFaults qw(use_faults set_fault clear_faults fault_hits fault_at_start);
use OrbitNode qw(orbit_node set_stop stop_at clear_stop wait_stopped in_background wait_done
  worker_pid kill_all_and_start start_is_refused);
use OrbitPair qw(create_pair pair_is_same);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

my $node = orbit_node('full', 'autovacuum = off', q{orbit.flush_interval = '1h'}, q{checkpoint_timeout = '1h'},
	'max_wal_size = 1GB', q{orbit.reclaim_delay = '1h'}, 'log_error_verbosity = verbose', 'log_statement = none', 'fsync = off');
use_faults($node);
create_pair($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

my $seed = 0;
sub churn { return sql(sprintf('CALL churn(1, 500, %d, %d)', $_[0] // 60, ++$seed)) }

sub same
{
	pair_is_same($node, $_[0]) or BAIL_OUT('the next tests would hide the cause');
	return;
}

sub log_end { return -s $node->logfile }

sub logged
{
	my ($pattern, $from, $what) = @_;
	return ok($node->wait_for_log($pattern, $from), $what);
}

sub active
{
	my ($like) = @_;
	return sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '$like%' AND pid <> pg_backend_pid()");
}

# The worker has tried it n times more.
sub tried
{
	my ($fault, $n) = @_;
	my $before = fault_hits($node, $fault);
	$node->poll_query_until('postgres', "SELECT orbit_fault_hits($fault) >= $before + $n") or die 'nothing is tried again';
	return;
}

my $no_space = qr/53100: could not flush a write buffer: IO error: No space left on device.*\n.*HINT:  Check free disk space/;
my $live = $node->data_dir . '/orbit/pgsql_tmp_live';

churn(600);
sql('SELECT orbit_flush()');
same('at the beginning');

# ---- the flush ------------------------------------------------------------------------------

# calls and files in the order of a flush; what fails while RocksDB heals itself comes last
my @flush = (
	[ 'create', '*stage/*.sst', 'enospc' ],
	[ 'write', '*stage/*.sst', 'enospc' ],
	[ 'write', '*stage/*.sst', 'short' ],
	[ 'sync', '*stage/*.sst', 'enospc' ],
	[ 'link', '*live/*.sst', 'enospc' ],
	[ 'create', '*live/*.sst', 'enospc' ],
	[ 'sync', '*live/*.sst', 'enospc' ],
	[ 'sync', '*pgsql_tmp_live', 'enospc' ],
	[ 'write', '*MANIFEST*', 'enospc' ],
	[ 'write', '*MANIFEST*', 'short' ],
	[ 'sync', '*MANIFEST*', 'enospc' ],
	[ 'write,create', '*MANIFEST*', 'enospc' ],
	[ 'write,rename', '*/[MC][AU]*', 'enospc', 'the MANIFEST and CURRENT' ],
	[ 'link,create,write,sync', '*', 'short', 'everything' ]);

my $worker = worker_pid($node);
my $round = 0;
for (@flush)
{
	my ($calls, $pattern, $action, $name) = @$_;
	$name = "$calls of " . ($name // $pattern) . " ($action)";
	my $crash = $round++ % 4 == 3;
	churn();
	my $from = log_end();
	my $fault = set_fault($node, 'worker', $calls, $pattern, $action, $round % 2);
	my $waiting = in_background($node, 'SELECT orbit_flush()');
	my $checkpoint = in_background($node, 'CHECKPOINT');
	logged($no_space, $from, "flush, $name: the log says so");
	churn(20);
	same("$name: rows are read and written");
	# the next tries meet what the first has left
	tried($fault, 1) unless $pattern =~ /sst/;
	is(active('CHECKPOINT') + active('SELECT orbit_flush()'), 2, "$name: a checkpoint waits");
	if ($crash)
	{
		is(worker_pid($node), $worker, 'the worker has survived it all');
		kill_all_and_start($node);
		same("$name: after a crash");
		$worker = worker_pid($node);
	}
	else
	{
		clear_faults($node);
		logged(qr/RocksDB can be written again/, $from, "$name: with space again it goes on");
		wait_done($node, $_) for 'SELECT orbit_flush()', 'CHECKPOINT';
		same("$name: afterwards");
	}
	eval { $_->quit } for $waiting, $checkpoint;
}
is(worker_pid($node), $worker, 'the worker has survived it all');
sql('SELECT orbit_flush(); CHECKPOINT');
is(join(' ', glob("$live/../pgsql_tmp_stage/*")), '', 'nothing is left of the failed ones');
is(sql('SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL'), 0, 'orbit_verify()');

# ---- writers meet full write buffers -----------------------------------------------------------

my $from = log_end();
set_fault($node, 'worker', 'write', '*stage/*.sst', 'enospc');
sql('CREATE TABLE load (i int, t text) USING orbit');
my $load = in_background($node, q{COPY load FROM PROGRAM 'seq -f "%.0f	filler of a row that is loaded" 1 20000'});
$node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM orbit_stat_write_buffers() WHERE state <> 'free'})
  or die 'the write buffers do not fill';
logged($no_space, $from, 'COPY: the log says so');
sleep 0.5;
is(active('COPY load'), 1, 'COPY waits for room');
is(sql('SELECT count(*) FROM load'), 0, 'others read');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY load%'});
ok(wait_done($node, 'COPY load'), 'and can be cancelled');
eval { $load->quit };
my ($rc, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '300ms'; INSERT INTO load SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g});
like($err, qr/canceling statement due to statement timeout/, 'a statement timeout ends the wait');
($rc, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '300ms'; CHECKPOINT});
$load = in_background($node, q{COPY load FROM PROGRAM 'seq -f "%.0f	filler of a row that is loaded" 1 20000'});
clear_faults($node);
ok(wait_done($node, 'COPY load'), 'with space again a load ends');
is(sql('SELECT count(*), sum(i) FROM load'), '20000|200010000', 'with all its rows');
eval { $load->quit };

# ---- REACHED ------------------------------------------------------------------------------------------

$from = log_end();
set_fault($node, 'worker', 'write', '*/REACHED.tmp', 'enospc');
sql('INSERT INTO load VALUES (0); CHECKPOINT');
logged(qr/LOG:  53100: could not write file "orbit\/REACHED.tmp": No space left on device/, $from, 'REACHED: the log says so');
clear_faults($node);
my $reached = slurp_file("$live/../REACHED");
sql('INSERT INTO load VALUES (0); CHECKPOINT');
isnt(slurp_file("$live/../REACHED"), $reached, 'the next checkpoint writes it');
sql('DELETE FROM load WHERE i = 0');

# ---- compaction -----------------------------------------------------------------------------------------

# Those of RocksDB's own.  Files in the live directory that are written, not linked, are theirs.
{
	$from = log_end();
	my $fault = set_fault($node, 'worker', 'write', '*live/*.sst', 'short');
	sql(join(';', map { ("CALL churn(1, 500, 15, $_)", 'SELECT orbit_flush()') } 1 .. 12));
	logged(qr/53100: could not compact column family pg_data: IO error: No space left on device.*\n.*HINT:  Check free disk space/,
		$from, "compaction: the log says so");
	cmp_ok(fault_hits($node, $fault), '>', 0, "compaction: it was met");
	same("compaction: rows are read, written and flushed all the same");
	sql('CHECKPOINT');
	clear_faults($node);
}

# Compactions that the worker asks for.
$node->append_conf('postgresql.conf', "orbit.reclaim_delay = 0\norbit.reclaim_threshold = 0\norbit.collect_interval = '100ms'\n");
$from = log_end();
my $fault = set_fault($node, 'worker', 'write', '*live/*.sst', 'enospc');
$node->reload;
churn();
sql('SELECT orbit_flush()');
logged(qr/53100: could not reclaim space of orbit tables: IO error: No space left on device.*\n.*HINT:  Check free disk space/,
	$from, 'compaction on request: the log says so');
same('compaction on request: nothing else is disturbed');
clear_faults($node);
my $jobs = sql('SELECT jobs FROM orbit_stat_reclaim()');
ok($node->poll_query_until('postgres', "SELECT jobs > $jobs FROM orbit_stat_reclaim()"), 'and comes when there is space');
same('after compaction');

# The MANIFEST fails when a compaction would be put in force.  Flushes find it mended.
for my $action ('enospc', 'short', 'eio')
{
	my $hold = set_fault($node, 'worker', 'write', '*live/*.sst', 'wait');
	churn();
	sql('SELECT orbit_flush()');
	$node->poll_query_until('postgres', "SELECT orbit_fault_hits($hold) > 0") or die 'no compaction comes';
	$from = log_end();
	my $broken = set_fault($node, 'worker', 'write', '*MANIFEST*', $action);
	clear_faults($node, $hold);
	$node->poll_query_until('postgres', "SELECT orbit_fault_hits($broken) > 0") or die 'the MANIFEST is not written';
	sleep 0.2;
	same("MANIFEST of a compaction ($action)");
	clear_faults($node);
	churn();
	sql('SELECT orbit_flush(); CHECKPOINT');
	same("MANIFEST of a compaction ($action): flushes go on");
}
$jobs = sql('SELECT jobs FROM orbit_stat_reclaim()');
ok($node->poll_query_until('postgres', "SELECT jobs > $jobs FROM orbit_stat_reclaim()"), 'and so do compactions');

# ---- metadata: records of dropped tables, generations -------------------------------------------------

# The worker stands before the step when the disk gets full.  No compaction has the files in hand.
$node->append_conf('postgresql.conf', "orbit.reclaim_delay = '1h'\norbit.reclaim_threshold = 20\n");
$node->reload;
$node->poll_query_until('postgres', 'SELECT NOT running FROM orbit_stat_reclaim()') or die 'compactions do not end';
for my $case (
	[ 'storages-before-drop', 'write', '*MANIFEST*', 'could not delete files of dropped storages' ],
	[ 'storages-before-forget', 'sync', '*stage/*.sst', 'could not delete the records of dropped storages' ])
{
	my ($point, $calls, $pattern, $message) = @$case;
	stop_at($node, $point);
	sql('SELECT orbit_flush(); CREATE TABLE gone USING orbit AS SELECT g, md5(g::text) FROM generate_series(1, 500) g; SELECT orbit_flush(); DROP TABLE gone');
	wait_stopped($node, $point);
	$from = log_end();
	set_fault($node, 'worker', $calls, $pattern, 'enospc');
	clear_stop($node, $point);
	logged(qr/53100: $message: IO error: No space left on device.*\n.*HINT:  Check free disk space/, $from,
		"a dropped table, $calls of $pattern: the log says so");
	is(sql(q{SELECT count(*) FROM orbit_storages() WHERE state = 'dropped'}), 1, 'and something of it is still there');
	clear_faults($node);
	# without a write that anybody else makes
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM orbit_storages() WHERE state = 'dropped'}), 'it goes when there is space')
	  or diag(sql('SELECT * FROM orbit_storages()'));
	churn(20);
	sql('SELECT orbit_flush()');
	same('dropped tables');
}

# ---- shutdown -----------------------------------------------------------------------------------------------

churn();
$from = log_end();
set_fault($node, 'worker', 'write', '*stage/*.sst', 'enospc', 0, 2);
$node->stop('fast');
ok($node->log_contains($no_space, $from), 'shutdown: the first flushes fail');
ok(!$node->log_contains(qr/PANIC/, $from), 'the next succeeds');
$node->start;
ok(!$node->log_contains(qr/redo starts at/, $from), 'and it was an orderly one');
same('after that shutdown');

churn();
$from = log_end();
set_fault($node, 'worker', 'write', '*MANIFEST*', 'short');
$node->stop('fast', fail_ok => 1);
ok( $node->log_contains(
		qr/PANIC:  53100: could not flush orbit's write buffers before shutdown: IO error: No space left on device.*\n.*HINT:  The changes are in the write-ahead log/, $from),
	'a shutdown that cannot flush is a crash, and says why');
$node->{_pid} = undef;
$node->start;
same('which loses nothing');

# ---- start -----------------------------------------------------------------------------------------------------

for my $case (
	[ 'create', '*MANIFEST*', 'enospc' ],
	[ 'write', '*MANIFEST*', 'short' ],
	[ 'sync', '*MANIFEST*', 'enospc' ],
	[ 'rename', '*CURRENT', 'enospc' ],
	[ 'write', '*.dbtmp', 'short' ])
{
	my ($calls, $pattern, $action) = @$case;
	churn();
	$node->stop($round++ % 2 ? 'fast' : 'immediate');
	for my $try (1 .. 2)
	{
		$from = log_end();
		local $ENV{ORBIT_FAULTS} = fault_at_start('worker', $calls, $pattern, $action);
		ok(start_is_refused($node), "start, $calls of $pattern: refused");
		ok( $node->log_contains(qr/FATAL:  53100: could not open RocksDB storage: IO error: No space left on device.*\n.*HINT:  Check free disk space/, $from),
			'the log says why');
		ok(!$node->log_contains(qr/PANIC|terminated by signal|was terminated/, $from), 'nothing crashes');
	}
	$node->start;
	same('with space it starts');
}

# Recovery that has more to flush than the write buffers hold.
my $old = sql('SELECT count(*) FROM load');
$from = log_end();
sql(q{INSERT INTO load SELECT g, repeat('y', 100) FROM generate_series(1, 10000) g});
churn(300);
$node->stop('immediate');
{
	local $ENV{ORBIT_FAULTS} = fault_at_start('worker', 'write', '*stage/*.sst', 'enospc', 2, 3);
	$node->start;
}
ok($node->log_contains($no_space, $from), 'recovery: the log says so');
ok($node->log_contains(qr/RocksDB can be written again/, $from), 'recovery goes on when there is space');
same('after that recovery');
is(sql('SELECT count(*) FROM load'), $old + 10000, 'rows of the load');
$node->restart;
same('once more from the files');
is(sql('SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL'), 0, 'orbit_verify()');
$node->stop('fast');
done_testing();
