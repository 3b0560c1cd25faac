# Near the wraparound of transaction ids. Three times the server comes up with so few ids left that it
# refuses to hand out another one. As soon as autovacuum runs it brings all tables back by itself, also those
# that nobody writes to, and no row is lost or comes back that was deleted or undone. On the way the ids pass
# 2^31 and 2^32.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node kill_all_and_start);
use OrbitPair qw(create_pair pair_is_same);
use OrbitXids qw(set_next_xid);

my $node = orbit_node('main', 'autovacuum = off', 'autovacuum_naptime = 1s', 'autovacuum_vacuum_cost_delay = 0',
	'autovacuum_max_workers = 6', 'fsync = off', 'wal_level = logical');

# GetNewTransactionId() refuses from here on: 3 million ids before the oldest one comes round again.
use constant STOP_BEFORE => 2**31 - 1 - 3_000_000;

sub query { return $node->safe_psql('postgres', $_[0]) }

# How old rows of orbit tables are when no ids are left. ORBIT_WRAPAROUND=1: as old as can be; then the storage worker
# looks up 2^31 transactions each time, for minutes.
my $span = $ENV{ORBIT_WRAPAROUND} ? 0 : 5_000_000;

# The oldest id of any database, by its age.
sub oldest_age { return query('SELECT max(age(datfrozenxid)) FROM pg_database') }

# The next transaction comes n ids later; of those passed over none has committed.
sub pass_over
{
	my ($n) = @_;
	my $next = query('SELECT pg_snapshot_xmax(pg_current_snapshot())') + $n;
	$node->stop;
	set_next_xid($node, $next, $next - $n);
	$node->start;
	return;
}

sub pass_over_but
{
	my ($left) = @_;
	return pass_over(STOP_BEFORE - oldest_age() - $left);
}

create_pair($node);
query('CREATE TABLE idle (i INT PRIMARY KEY, v TEXT) USING orbit');
query(q{INSERT INTO idle SELECT g, 'row ' || g FROM generate_series(1, 2000) g});
query('BEGIN; DELETE FROM idle WHERE i <= 1000; ROLLBACK; DELETE FROM idle WHERE i > 1900');
query(q{BEGIN; INSERT INTO idle VALUES (10000, 'undone'); ROLLBACK});

my $round = 0;
for my $what ('below 2^31', 'over 2^31', 'over 2^32')
{
	my $base = 1000 * ++$round;

	# as long as there is this slot, rows of the catalogs are not frozen
	query(q{SELECT pg_create_logical_replication_slot('holder', 'pgoutput')});
	if ($span)
	{
		query('VACUUM (FREEZE) r; VACUUM (FREEZE) idle');
		pass_over_but($span);
	}

	query(join('; ', 'BEGIN', map { "CALL change(0, $base + $_, 5)" } 1 .. 50) . '; COMMIT');
	query(join('; ', 'BEGIN', map { "CALL change(1, $base + $_, 7)" } 1 .. 20) . '; ROLLBACK');
	query(join('; ', 'BEGIN', map { "CALL change(2, $base + $_, 7)" } 11 .. 20) . '; COMMIT');
	query("BEGIN; CALL change(2, $base + 30, 9); CALL change(0, $base + 60, 9); SELECT orbit_flush(); PREPARE TRANSACTION 'p'");
	query("COMMIT PREPARED 'p'; SELECT orbit_flush()");
	pass_over_but(-5000);

	my ($rc, $out, $err) = $node->psql('postgres', 'INSERT INTO idle VALUES (0)');
	like($err, qr/not accepting commands to avoid wraparound/, "$what: no ids are left");
	pair_is_same($node, "$what: what is there can be read");
	is(query('SELECT count(*), sum(i) FROM idle'), '1900|1805950', "$what: the table nobody writes to");
	is(query("SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL"), 0, "$what: orbit_verify()");

	query(q{SELECT pg_drop_replication_slot('holder')});
	$node->append_conf('postgresql.conf', 'autovacuum = on');
	$node->reload;
	if ($round == 2)
	{
		sleep 1;
		kill_all_and_start($node);
	}
	ok( $node->poll_query_until('postgres', 'SELECT max(age(datfrozenxid)) < 200000000 FROM pg_database'),
		"$what: autovacuum has frozen everything")
	  or BAIL_OUT("what is old:\n" . query(q{SELECT datname, age(datfrozenxid), (SELECT string_agg(relname || ' ' || age(relfrozenxid), ', ')
		FROM pg_class WHERE relfrozenxid <> '0' AND age(relfrozenxid) > 200000000) FROM pg_database}));
	is(query("SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'orbit' AND relkind = 'r' AND age(relfrozenxid) > 200000000"),
		0, "$what: orbit tables too");
	# the limit follows a moment later, at the next end of an autovacuum worker
	my $written = 1;
	for (1 .. 300)
	{
		$written = $node->psql('postgres', "CALL change(2, $base + 40, 11)") == 0;
		last if $written;
		sleep 1;
	}
	ok($written, "$what: ids are handed out again");
	$node->append_conf('postgresql.conf', 'autovacuum = off');
	$node->reload;
	pair_is_same($node, "$what: after freezing");
	is(query('SELECT count(*), sum(i) FROM idle'), '1900|1805950', "$what: the table nobody writes to, frozen");
}

kill_all_and_start($node);
pair_is_same($node, 'after a crash');

cmp_ok(query('SELECT pg_snapshot_xmax(pg_current_snapshot())'), '>', 2**32, 'the ids are in their second round');
unlike(slurp_file($node->logfile), qr/could not access status|PANIC|TRAP/, 'nothing was looked for in vain');
$node->stop;
done_testing();
