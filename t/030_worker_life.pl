# The storage worker's life: it outlives writers at a shutdown, never leaves
# unnoticed, and its death loses nothing.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node orbit_standby set_stop clear_stop worker_pid wait_recovered kill_all_and_start);
use OrbitNumbers qw(create_numbers insert_to summary expected);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

my $node = orbit_node(
	'primary', { allows_streaming => 1 },
	q{orbit.write_buffer_size = '512kB'}, q{orbit.flush_interval = '1h'},
	'log_checkpoints = on', 'autovacuum = off', 'restart_after_crash = on');
create_numbers($node);
$node->safe_psql('postgres', 'CREATE UNLOGGED TABLE u (i INT) USING orbit');

# ---- an orderly restart ---------------------------------------------------------

insert_to($node, 1, 1000);
$node->safe_psql('postgres', 'INSERT INTO u SELECT generate_series(1, 10)');
is($node->safe_psql('postgres', 'SELECT max_lsn IS NOT NULL FROM orbit_stat_write_buffers() WHERE state = $$active$$'),
	't', 'rows are in a write buffer');
$node->restart;
is(summary($node), expected(1000), 'an orderly restart keeps rows');
is($node->safe_psql('postgres', 'SELECT count(*) FROM u'), 10,
	'an orderly restart keeps rows of an unlogged table');
is($node->safe_psql('postgres', 'SELECT sum(used) FROM orbit_stat_write_buffers()'),
	0, 'the shutdown flushed everything');

# ---- functions ----------------------------------------------------------------------

insert_to($node, 1001, 2000);
$node->safe_psql('postgres', 'SELECT orbit_flush()');
is($node->safe_psql('postgres', 'SELECT sum(used) FROM orbit_stat_write_buffers()'),
	0, 'orbit_flush empties the write buffers');
cmp_ok($node->safe_psql('postgres', q(SELECT files FROM orbit_column_families() WHERE name = 'pg_data')),
	'>', 0, 'pg_data has files');
is($node->safe_psql('postgres', 'SELECT string_agg(name, $$,$$) FROM orbit_column_families()'),
	'pg_data,pg_indexes,pg_tables,pg_metadata', 'column families');
is(summary($node), expected(2000), 'rows after orbit_flush');
$node->safe_psql('postgres', 'CREATE ROLE nobody_special');
my ($rc, $out, $err) =
  $node->psql('postgres', 'SET ROLE nobody_special; SELECT orbit_flush()');
like($err, qr/permission denied/, 'orbit_flush needs a privilege');

# ---- SIGTERM that is no shutdown ----------------------------------------------------------

my $pid = worker_pid($node);
my $log = -s $node->logfile;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($node->wait_for_log(qr/storage worker of orbit_fdw cannot be terminated on its own/, $log),
	'the worker says that it stays');
insert_to($node, 2001, 2100);
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
$node->safe_psql('postgres', 'SELECT orbit_flush()');
is(worker_pid($node), $pid, 'pg_terminate_backend does not end the worker');
is(summary($node), expected(2100), 'rows after pg_terminate_backend');

# ---- kill -9 of the worker ------------------------------------------------------------------

insert_to($node, 2101, 3000);
kill 'KILL', $pid;
ok(wait_recovered($node, $pid), 'the server recovers from a killed worker');
is(summary($node), expected(3000), 'a killed worker loses no row');
is($node->safe_psql('postgres', 'SELECT count(*) FROM u'), 0,
	'an unlogged table is emptied by the crash');

# The worker dies between the ingest and whatever follows it.
$pid = worker_pid($node);
insert_to($node, 3001, 3500);
set_stop($node, 'worker-after-flush', 'kill', 0);
$node->psql('postgres', 'SELECT orbit_flush()');
ok(wait_recovered($node, $pid), 'the server recovers from a worker that died after a flush');
is(summary($node), expected(3500), 'no row is lost or doubled');

# ---- kill -9 of everything --------------------------------------------------------------------

insert_to($node, 3501, 5000);
kill_all_and_start($node);
is(summary($node), expected(5000), 'kill -9 of all processes loses no row');

# More than the write buffers hold, partly flushed.
insert_to($node, 5001, 40000);
kill_all_and_start($node);
is(summary($node), expected(40000), 'kill -9 after many write buffers');
$node->stop('immediate');
$node->start;
is(summary($node), expected(40000), 'immediate shutdown');

# ---- fast shutdown while sessions write -----------------------------------------------------------

sub start_writers
{
	my @writers = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
	$_->query_until(qr/begun/, q(
\echo begun
DO $$
BEGIN
	FOR n IN 1 .. 1000000 LOOP
		INSERT INTO w SELECT pg_backend_pid(), n, repeat('y', 500) FROM generate_series(1, 5);
		COMMIT;
	END LOOP;
END $$;
)) for @writers;
	return @writers;
}

$node->safe_psql('postgres', 'CREATE TABLE w (pid int, n int, filler text) USING orbit');
for my $mode ('fast', 'immediate')
{
	$node->safe_psql('postgres', 'TRUNCATE w');
	my @writers = start_writers();
	$node->poll_query_until('postgres',
		'SELECT count(DISTINCT pid) = 3 AND max(n) > 100 FROM w')
	  or die 'the writers do not write';
	$node->stop($mode);
	eval { $_->quit } for @writers;
	$node->start;
	is($node->safe_psql('postgres',
			'SELECT count(*) FROM (SELECT pid, n FROM w GROUP BY 1, 2 HAVING count(*) <> 5) s'),
		0, "$mode shutdown under load: transactions are whole");
	is($node->safe_psql('postgres',
			'SELECT count(*) FROM (SELECT pid FROM w GROUP BY 1 HAVING count(DISTINCT n) <> max(n)) s'),
		0, "$mode shutdown under load: none is missing");
}

# ---- failing flushes -------------------------------------------------------------------------------

$log = -s $node->logfile;
set_stop($node, 'flush-no-space', 'fail', 0);
insert_to($node, 40001, 40100);
my $flusher = $node->background_psql('postgres', on_error_stop => 0);
$flusher->query_until(qr/begun/, "\\echo begun\nSELECT orbit_flush();\n");
ok($node->wait_for_log(qr/could not flush a write buffer/, $log), 'a failed flush is logged');
is(summary($node), expected(40100), 'rows can be read while flushes fail');
is($node->safe_psql('postgres',
		q(SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'SELECT orbit_flush()%' AND pid <> pg_backend_pid())),
	1, 'the waiting session is cancelled');
$node->poll_query_until('postgres',
	q(SELECT count(*) = 0 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT orbit_flush()%' AND pid <> pg_backend_pid()))
  or die 'orbit_flush cannot be cancelled';
eval { $flusher->quit };
clear_stop($node, 'flush-no-space');
ok($node->wait_for_log(qr/RocksDB can be written again/, $log), 'the worker tries again');
$node->safe_psql('postgres', 'SELECT orbit_flush()');
is(summary($node), expected(40100), 'rows after the failure');

# The last flush of a shutdown fails: nothing may be lost.
set_stop($node, 'flush-no-space', 'fail', 0);
insert_to($node, 40101, 40200);
$log = -s $node->logfile;
$node->stop('fast', fail_ok => 1);
ok($node->log_contains(qr/could not flush orbit's write buffers before shutdown/, $log),
	'a shutdown that cannot flush is a crash');
$node->start;
is(summary($node), expected(40200), 'and loses no row');

# ---- a standby is attached ------------------------------------------------------------------------------

my $standby = orbit_standby($node);

# many times the write buffers' size: redo has to wait for room
insert_to($node, 40201, 60000);
$node->wait_for_catchup($standby);
is(summary($standby), expected(60000), 'the standby has the rows');

my $before = time;
$node->stop('fast');
cmp_ok(time - $before, '<', $timeout, 'fast shutdown with an idle standby attached');
$node->start;
is(summary($node), expected(60000), 'rows after that shutdown');

$pid = worker_pid($standby);
$standby->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
insert_to($node, 60001, 61000);
$node->wait_for_catchup($standby);
is(worker_pid($standby), $pid, "pg_terminate_backend does not end a standby's worker");

kill 'KILL', $pid;
ok(wait_recovered($standby, $pid), 'the standby recovers from a killed worker');
insert_to($node, 61001, 62000);
$node->wait_for_catchup($standby);
is(summary($standby), expected(62000), 'and goes on');

$standby->restart;
is(summary($standby), expected(62000), 'fast shutdown of the standby');
insert_to($node, 62001, 63000);
$node->wait_for_catchup($standby);
kill_all_and_start($standby);
$node->wait_for_catchup($standby);
is(summary($standby), expected(63000), 'kill -9 of the standby');

$standby->stop('fast');
$node->stop('fast');
done_testing();
