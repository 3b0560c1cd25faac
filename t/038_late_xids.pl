# Transaction ids beyond 2^31, and over 2^32: what a flush leaves out or freezes while
# transactions with savepoints run, are aborted, prepared or hold locks is what it would
# be with small ones, also after kill -9.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node in_background wait_done kill_all_and_start);
use OrbitPair qw(create_pair pair_is_same);
use OrbitXids qw(set_next_xid);

my $node = orbit_node('main', 'autovacuum = off', q{orbit.flush_interval = '1h'}, q{checkpoint_timeout = '1h'},
	'fsync = off');

sub query { return $node->safe_psql('postgres', $_[0]) }

sub same
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	pair_is_same($node, $what) or BAIL_OUT('the next tests would hide the cause');
	return;
}

# The next transaction is this one; of those before it nothing is known but what is frozen.
sub go_on_at
{
	my ($xid) = @_;
	$node->command_ok([ 'vacuumdb', '--all', '--freeze', '-q' ], 'rows of the catalogs are frozen');
	$node->stop;
	set_next_xid($node, $xid);
	$node->start;
	return;
}

sub locked
{
	my ($key, $what) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT FROM r WHERE k = $key FOR UPDATE NOWAIT");
	like($err, qr/could not obtain lock/, $what);
	return;
}

# Changes of key + 1 .. key + 4, in subtransactions that are kept and undone.
sub some_changes
{
	my ($key) = @_;
	my @k = map { $key + $_ } 0 .. 4;
	return qq{CALL change(0, $k[1], 5); SAVEPOINT a; CALL change(3, $k[0], 7); CALL change(0, $k[2], 5); RELEASE a;
		SAVEPOINT b; CALL change(4, $k[0], 1); CALL change(4, $k[1], 1); CALL change(0, $k[3], 5); ROLLBACK TO b;
		SAVEPOINT c; CALL change(2, $k[1], 1); SAVEPOINT d; CALL change(0, $k[4], 5); ROLLBACK TO d};
}

my $round = 0;

sub scenario
{
	my ($what) = @_;
	my $key = 10_000 * ++$round;
	query(join(';', map { "CALL change(0, $key + 100 * $_, 5)" } 0 .. 6));
	query("CALL churn(1, 400, 400, $round); SELECT orbit_flush()");

	my %s = map { $_ => $node->background_psql('postgres') } qw(open many locker reader);
	my $sum = 'SELECT count(*), sum(hashtextextended(t::text, 0)) FROM %s t';
	my $before = $s{reader}->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; ' . sprintf($sum, 'h'));
	my $first_xid = $s{open}->query_safe('BEGIN; SELECT pg_current_xact_id(); ' . some_changes($key));
	query('BEGIN; ' . some_changes($key + 300) . '; ROLLBACK');
	query("CALL churn(1, 400, 400, $round + 10); SELECT orbit_flush(); CALL churn(1, 400, 200, $round + 10); SELECT orbit_flush()");
	same("$what: flushes while a transaction runs");
	is($s{reader}->query_safe(sprintf($sum, 'r')), $before, "$what: an old snapshot sees what it saw");

	my $second_xid = $s{locker}->query_safe("BEGIN; SELECT FROM r WHERE k = $key + 100 FOR KEY SHARE; SAVEPOINT a; SELECT FROM r WHERE k = $key + 200 FOR UPDATE; RELEASE a; SELECT pg_current_xact_id()");
	query('BEGIN; ' . some_changes($key + 400) . "; SELECT FROM r WHERE k = $key + 400 FOR UPDATE; PREPARE TRANSACTION 'p$round'");
	# more subtransactions than the array of processes holds
	my $many = "DO 'BEGIN FOR i IN 1 .. 80 LOOP BEGIN CALL change(0, $key + 1000 + i, i); EXCEPTION WHEN division_by_zero THEN END; END LOOP; END'";
	for my $overflowed (0, 1)
	{
		my $title = $what . ($overflowed ? ', with many subtransactions' : '');
		$s{many}->query_safe("BEGIN; $many") if $overflowed;
		# flushes while others write
		my $busy = in_background($node, "CALL churn(1, 400, 400, $round + 20)");
		query('SELECT orbit_flush(); SELECT pg_sleep(0.05); SELECT orbit_flush()');
		wait_done($node, 'CALL churn');
		$busy->quit;
		query('SELECT orbit_flush()');
		same("$title: flushes while transactions run and lock");
		is($s{reader}->query_safe(sprintf($sum, 'r')), $before, "$title: an old snapshot sees what it saw");
		locked($key + 100, "$title: a key share lock");
		locked($key + 200, "$title: a lock of a subtransaction");
		locked($key + 400, "$title: a lock of a prepared transaction");
	}
	$s{$_}->query_safe('COMMIT') for qw(open many locker reader);
	query("CALL churn(1, 400, 100, $round + 30); SELECT orbit_flush()");
	same("$what: flushed after they have ended");
	is(query("SELECT string_agg((k - $key)::text, ',' ORDER BY k) FROM r WHERE k BETWEEN $key AND $key + 99"), '0,1,2',
		"$what: what was undone is not there");
	$_->quit for values %s;

	# Flushes do leave versions out, as the prepared transaction is not older.
	my $first = query('SELECT bytes_flushed FROM orbit_stat_storage()');
	query("COMMIT PREPARED 'p$round'");
	query("DO 'BEGIN FOR i IN 1 .. 200 LOOP CALL change(2, $key + 500, 299); COMMIT; END LOOP; END'");
	query('SELECT orbit_flush()');
	my $bytes = query('SELECT bytes_flushed FROM orbit_stat_storage()') - $first;
	cmp_ok($bytes, '<', 5000, "$what: 200 versions become one ($bytes bytes)");

	# kill -9 of everything, with transactions in flushed and unflushed write buffers
	my $open = $node->background_psql('postgres');
	$open->query_safe('BEGIN; ' . some_changes($key + 600));
	query(q{BEGIN; } . some_changes($key + 500) . "; SELECT FROM r WHERE k = $key + 500 FOR UPDATE; PREPARE TRANSACTION 'q$round'");
	query("SELECT orbit_flush(); CALL churn(1, 400, 300, $round + 40)");
	kill_all_and_start($node);
	eval { $open->quit };
	same("$what: kill -9 of everything");
	locked($key + 500, "$what: and the prepared transaction holds its lock");
	query("COMMIT PREPARED 'q$round'");
	query("CALL churn(1, 400, 100, $round + 50); SELECT orbit_flush()");
	same("$what: and goes on");
	# of an old transaction, and of one that locks rows after it
	return ($first_xid, $second_xid =~ s/\s//gr);
}

query('UPDATE pg_database SET datallowconn = true');
# In steps of less than 2^31, as the age of a table is.  VACUUM does not freeze orbit
# tables, so there are none yet.
go_on_at($_) for 2_000_000_000, 3_000_000_000;
create_pair($node);
scenario('at 3,000,000,000');

go_on_at(2**32 - 300);
same('after a step to 2^32 - 300');
my ($old, $new) = scenario('over 2^32');
ok($old < 2**32 && $new > 2**32, "from $old to $new");
$node->restart;
same('after an orderly restart');

$node->stop;
done_testing();
