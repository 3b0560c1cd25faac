# Races around a flush.  At every stop point of the flush and of a row change a process
# is killed, fails or stands still while others write and read; afterwards, and
# meanwhile, the orbit table must hold what a heap table holds that got the same
# changes in the same transactions.  One cluster goes through all of it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitNode qw(orbit_node set_stop stop_at clear_stop wait_stopped in_background wait_done
  worker_pid wait_recovered postmaster_pid children);
use OrbitPair qw(create_pair pair_is_same);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my @worker_points =
  qw(worker-before-seal flush-before-ingest flush-after-ingest worker-after-flush worker-before-bump);
my $seed = $ENV{ORBIT_SEED} // 1;
srand($seed);

my $node = orbit_node('races', 'autovacuum = off', q{orbit.flush_interval = '1h'},
	q{checkpoint_timeout = '1h'}, 'max_wal_size = 1GB', 'restart_after_crash = on', 'fsync = off');

create_pair($node);
$node->safe_psql(
	'postgres', q{
CREATE UNLOGGED TABLE u (i int) USING orbit;
-- Goes on with cursor c: number and sum of the keys, of at most n rows.
CREATE FUNCTION take(n int, OUT number bigint, OUT sum bigint) LANGUAGE plpgsql AS $$
DECLARE
	c refcursor := 'c';
	key int;
BEGIN
	number := 0;
	sum := 0;
	WHILE number < n LOOP
		FETCH c INTO key;
		EXIT WHEN NOT FOUND;
		number := number + 1;
		sum := sum + key;
	END LOOP;
END $$;
});
$node->safe_psql('postgres', 'CALL churn(1, 2000, 3000, 1)');

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

sub same
{
	my ($what) = @_;
	pair_is_same($node, $what) or BAIL_OUT('the next tests would hide the cause');
	return;
}

sub session
{
	return $node->background_psql('postgres', on_error_stop => 0);
}

# The session works on it; whatever becomes of it is seen elsewhere.
sub send_sql
{
	my ($psql, $sql) = @_;
	eval { $psql->query_until(qr/begun/, "\\echo begun\n$sql;\n") };
	return $psql;
}

sub quit
{
	eval { $_->quit } for @_;
	return;
}

# The worker's pid by its title: during recovery nobody can be asked.
sub worker_by_title
{
	my %title = children(postmaster_pid($node->data_dir) // return 0);
	my @workers = grep { $title{$_} =~ /orbit storage worker/ } keys %title;
	return $workers[0] // 0;
}

# Kills n workers more, each a moment after it has come up.
sub kill_in_recovery
{
	my ($n, $old) = @_;
	my $until = time + $timeout;
	while ($n > 0 && time < $until)
	{
		my $pid = worker_by_title();
		if ($pid && $pid != $old)
		{
			sleep rand 0.06;
			kill 'KILL', $pid;
			$old = $pid;
			$n--;
		}
		sleep 0.01;
	}
	return $old;
}

my $round = 1;

same('before any flush was disturbed');

# ---- the worker dies or fails at each point --------------------------------------------

my $again = 0;
for my $point (@worker_points)
{
	for my $action ('kill', 'error')
	{
		# this one is survived: see below
		next if $point eq 'flush-before-ingest' && $action eq 'error';
		my $old = worker_pid($node);
		my $extra = '';
		my $in_recovery = $again++ % 3 == 0;
		my $salt = $seed * 1000 + 10 * $round++;
		my @busy = map { session() } 0 .. 3;
		query('INSERT INTO u SELECT generate_series(1, 100)');
		set_stop($node, $point, $action, $point eq 'worker-before-bump' ? int(rand 40) : int(rand 8)) unless $in_recovery;
		send_sql($busy[$_], "CALL churn($_ * 1000 + 1, $_ * 1000 + 1000, 100000, $salt + $_)") for 0 .. 1;
		# some of the points are not reached without them
		send_sql($busy[2], join(';', ('SELECT pg_sleep(0.1), orbit_flush()') x 40));
		send_sql($busy[3], join(';', ('SELECT pg_sleep(0.15)', 'CHECKPOINT') x 10)) unless $in_recovery;
		if ($in_recovery)
		{
			# enough to replay that the next kills come in the middle of it
			sleep 1;
			set_stop($node, $point, $action, int(rand 4));
			for (1 .. 20 * $timeout)
			{
				last unless kill 0, $old;
				sleep 0.05;
			}
			$old = kill_in_recovery(3, $old);
			$extra = ', and three times more';
		}
		ok(wait_recovered($node, $old), "the server recovers from $action at $point$extra");
		quit(@busy);
		same("$action at $point: contents");
		is(query('SELECT count(*) FROM u'), 0, "$action at $point: the unlogged table is empty");
	}
}

# ---- an ERROR while a flush is prepared --------------------------------------------------

# Were it the worker's end, a commit log that cannot be read would keep the server from ever coming up again.
my $survivor = worker_pid($node);
my $offset = -s $node->logfile;
set_stop($node, 'flush-before-ingest', 'error', 0);
my @churners = map { session() } 0 .. 1;
send_sql($churners[$_], "CALL churn($_ * 1000 + 1, $_ * 1000 + 1000, 100000, 500 + $_)") for 0 .. 1;
my $checkpointer = in_background($node, 'CHECKPOINT');
ok($node->wait_for_log(qr/could not flush a write buffer: stop point "flush-before-ingest"/, $offset),
	'an error in a flush is reported');
$node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM orbit_stat_write_buffers() WHERE state <> 'free'})
  or BAIL_OUT('the write buffers do not fill');
is( query(q{SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CHECKPOINT%'}),
	1, 'a checkpoint waits for the flush');
# the writers wait for room; readers do not
is(query('SELECT count(*) > 0 FROM r'), 't', 'and rows can be read');
clear_stop($node, 'flush-before-ingest');
wait_done($node, 'CHECKPOINT');
query(q{SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'CALL churn%' AND pid <> pg_backend_pid()});
wait_done($node, 'CALL churn');
quit(@churners, $checkpointer);
is(worker_pid($node), $survivor, 'the worker has survived it');
same('an error in a flush: contents');
query('SELECT orbit_flush()');
same('and after the next flush');

# ---- readers while the worker stands at each point ----------------------------------------

my $sum = 'SELECT coalesce(sum(hashtextextended(t::text, 0)), 0), count(*) FROM %s t';

for my $point (@worker_points)
{
	my $old = $node->background_psql('postgres');
	my $before = $old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; ' . sprintf($sum, 'h'));
	my $cursor = $node->background_psql('postgres');
	$cursor->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT k FROM r');
	my @parts = ($cursor->query_safe('SELECT count(*), sum(k) FROM r'), $cursor->query_safe('SELECT * FROM take(500)'));

	stop_at($node, $point);
	query("CALL churn(1, 2000, 150, $round)");
	my $flush = in_background($node, 'SELECT orbit_flush(); CHECKPOINT');
	wait_stopped($node, $point, 1);
	$round++;
	query("CALL churn(1, 2000, 150, $round)");
	same("readers while the worker stands at $point");
	is($old->query_safe(sprintf($sum, 'r')), $before, "$point: an old snapshot reads the same rows");
	push @parts, $cursor->query_safe('SELECT * FROM take(500)');

	clear_stop($node, $point);
	wait_done($node, 'SELECT orbit_flush()');
	wait_done($node, 'CHECKPOINT');
	same("readers after the worker went on from $point");
	is($old->query_safe(sprintf($sum, 'r')), $before, "$point: and afterwards");
	push @parts, $cursor->query_safe('SELECT * FROM take(1000000)');
	my ($number, $keys) = split /\|/, shift @parts;
	for (@parts)
	{
		my ($n, $k) = split /\|/;
		$number -= $n;
		$keys -= $k;
	}
	is("$number $keys", '0 0', "$point: a cursor over it returns every row once");
	quit($old, $cursor, $flush);
	$round++;
}

# ---- a row change stands between deciding and writing ---------------------------------------

query('DELETE FROM r WHERE k = 1; DELETE FROM h WHERE k = 1; CALL change(0, 1, 5)');

# Both have decided; the write buffer they decided on is flushed and gone.
stop_at($node, 'row_before_push');
my @both = map { in_background($node, 'UPDATE r SET v = v + 10 WHERE k = 1') } 1 .. 2;
wait_stopped($node, 'row_before_push', 2);
query('SELECT orbit_flush(); INSERT INTO r VALUES (100000, 1, 1); INSERT INTO h VALUES (100000, 1, 1); SELECT orbit_flush()');
clear_stop($node, 'row_before_push');
wait_done($node, 'UPDATE r');
quit(@both);
query('UPDATE h SET v = v + 20 WHERE k = 1');
same('two sessions decide on one row, and it is flushed before either writes');

# The row is deleted between decision and write.
stop_at($node, 'row_before_push');
my $delete = in_background($node, 'DELETE FROM r WHERE k = 1');
wait_stopped($node, 'row_before_push', 1);
my $update = in_background($node, 'UPDATE r SET v = v + 10, w = 3 WHERE k = 1');
wait_stopped($node, 'row_before_push', 2);
clear_stop($node, 'row_before_push');
wait_done($node, 'DELETE FROM r');
wait_done($node, 'UPDATE r');
quit($delete, $update);
query('DELETE FROM h WHERE k = 1');
same('a delete and an update decide on one row');

# An error or a cancel there costs the statement only.
query('CALL change(0, 1, 5)');
set_stop($node, 'row_before_push', 'error', 0);
my ($rc, $out, $err) = $node->psql('postgres', q(
BEGIN;
SAVEPOINT a;
UPDATE r SET v = 1000 WHERE k = 1;
ROLLBACK TO a;
SELECT orbit_stop_point_clear('row_before_push');
CALL change(2, 1, 7);
COMMIT;), on_error_stop => 0);
like($err, qr/stop point "row_before_push"/, 'an error before the write');
same('the transaction goes on after it');

for my $how ('cancel', 'terminate')
{
	stop_at($node, 'row_before_push');
	my $psql = in_background($node, 'BEGIN; UPDATE r SET v = 1001 WHERE k = 1');
	wait_stopped($node, 'row_before_push', 1);
	query("SELECT count(pg_${how}_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%UPDATE r SET v = 1001%' AND pid <> pg_backend_pid()");
	wait_done($node, 'BEGIN; UPDATE r SET v = 1001');
	clear_stop($node, 'row_before_push');
	quit($psql);
	query('CALL change(2, 1, 9); SELECT orbit_flush()');
	same("pg_${how}_backend before the write");
}

# kill -9 there, with the transaction's earlier changes in flushed and unflushed buffers.
my $old = worker_pid($node);
my $victim = $node->background_psql('postgres', on_error_stop => 0);
$victim->query('BEGIN; UPDATE r SET v = -5, w = -5 WHERE k BETWEEN 1 AND 400; INSERT INTO r VALUES (-1, -1, -1)');
query('SELECT orbit_flush()');
$victim->query('DELETE FROM r WHERE k BETWEEN 100 AND 200');
query("CALL churn(1001, 2000, 200, 77)");
set_stop($node, 'row_before_push', 'kill', 0);
eval { $victim->query('UPDATE r SET v = -6 WHERE k = -1') };
ok(wait_recovered($node, $old), 'the server recovers from a backend killed before its write');
quit($victim);
same('kill at row_before_push: contents');

# ---- row locks in recovery -------------------------------------------------------------------------

# Replay publishes every lock that was logged; those of ended transactions must not reach RocksDB,
# or the row would become slower with each crash.  A prepared transaction's must.
query(q{CALL change(0, 2, 5); CALL change(0, 3, 5); SELECT orbit_flush(); CHECKPOINT});
$old = worker_pid($node);
my $locker = $node->background_psql('postgres', on_error_stop => 0);
$locker->query('BEGIN; SELECT FROM r WHERE k = 2 FOR KEY SHARE');
query(q{BEGIN; SELECT FROM r WHERE k = 3 FOR UPDATE; PREPARE TRANSACTION 'keep'});
query(q{DO $$ BEGIN FOR i IN 1 .. 3000 LOOP PERFORM FROM r WHERE k = 2 FOR KEY SHARE; COMMIT; END LOOP; END $$});
kill 'KILL', $old;
ok(wait_recovered($node, $old), 'the server recovers from a killed worker');
quit($locker);
query('SELECT orbit_flush()');
my $bytes = query('SELECT bytes_flushed FROM orbit_stat_storage()');
cmp_ok($bytes, '<', 20000, "3000 finished locks are not flushed in recovery ($bytes bytes)");
like(
	($node->psql('postgres', 'SELECT FROM r WHERE k = 3 FOR UPDATE NOWAIT'))[2],
	qr/could not obtain lock/, 'the lock of a prepared transaction is kept');
query(q{COMMIT PREPARED 'keep'});
is(query('SELECT count(*) FROM (SELECT FROM r WHERE k IN (2, 3) FOR UPDATE NOWAIT) l'), 2, 'and goes with it');

# ---- everything once more, from the files ------------------------------------------------------

$node->restart;
same('after an orderly restart');
$node->stop('immediate');
$node->start;
same('after an immediate shutdown');
query('CALL churn(1, 2000, 500, 99)');
same('and the table goes on');
$node->stop('fast');
done_testing();
