# A row that is updated more often than there are tags: the primary gives them again when it has pruned
# their versions.  A standby whose reader keeps all of them has versions with one tag more than once: its
# reader goes on seeing what it saw, orbit_verify() finds nothing wrong, and after a promotion triggers, locks,
# updates by TID and updates that wait for others find the versions they mean, as with heap.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node orbit_standby eventually);
use OrbitSession;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = orbit_node('primary', { allows_streaming => 1 }, 'autovacuum = off', 'hot_standby_feedback = off',
	'max_standby_streaming_delay = -1', 'orbit.reclaim_threshold = 0', 'orbit.reclaim_delay = 0', 'wal_retrieve_retry_interval = 100ms');

# After the promotion the same is done to both tables.  Before it only to that of orbit: what heap prunes waits for readers.
my %tables = (orbit => 't', heap => 'h');
$primary->safe_psql('postgres', join('', map { qq{
CREATE TABLE $tables{$_} (id int PRIMARY KEY, n int, note text) USING $_;
INSERT INTO $tables{$_} SELECT g, 0, '' FROM generate_series(1, 5) g;
CREATE TABLE log_$tables{$_} (seq serial, op text, id int, old_n int, new_n int);
} } sort keys %tables) . q{
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO log_%s (op, id, old_n, new_n) VALUES ($1, $2, $3, $4)', TG_TABLE_NAME) USING TG_NAME, OLD.id, OLD.n, NEW.n;
	RETURN NULL;
END $$;
CREATE PROCEDURE count_up(times int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..times LOOP
		UPDATE t SET n = n + 1;
		COMMIT;
	END LOOP;
END $$});
my $standby = orbit_standby($primary);

sub versions { return $_[0]->safe_psql('postgres', q{SELECT versions FROM orbit_verify('t')}) }

sub problems { return $standby->safe_psql('postgres', q{SELECT coalesce(string_agg(problem, '; '), 'none') FROM orbit_verify()}) }

my $reader = OrbitSession->new($standby, 'postgres', 60);
$reader->ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->ask('SELECT sum(n) FROM t'), 0, 'a reader on the standby');

for my $round (1 .. 3)
{
	$primary->safe_psql('postgres', 'CALL count_up(150); SELECT orbit_flush()');
	ok(eventually(sub {
				# only what is in files is compacted, and only when other transactions have come since
				$primary->safe_psql('postgres', 'INSERT INTO log_t (op) VALUES (NULL); SELECT orbit_flush()');
				return versions($primary) < 100;
			}, 60), "round $round: the primary has pruned");
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	$standby->safe_psql('postgres', 'SELECT orbit_flush()') if $round == 2;
}
cmp_ok(versions($standby), '>', 5 * 256, 'on the standby a row has more versions than there are tags');
is(problems(), 'none', 'orbit_verify() there');
is($reader->ask('SELECT sum(n) FROM t'), 0, 'the reader sees what it saw');
is($reader->ask('SELECT count(*) FROM t WHERE ctid = ANY (ARRAY(SELECT ctid FROM t))'), 5, '... and finds it by TID');

# ---- the standby as primary; its old versions are still there
$primary->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', 'UPDATE h SET n = t.n FROM t WHERE h.id = t.id;' . join('', map { qq{
TRUNCATE log_$_ RESTART IDENTITY;
CREATE TRIGGER at_once AFTER UPDATE OR DELETE ON $_ FOR EACH ROW EXECUTE FUNCTION noted();
CREATE CONSTRAINT TRIGGER later AFTER UPDATE OR DELETE ON $_ DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION noted();
} } values %tables));

my ($one, $two) = map { OrbitSession->new($standby, 'postgres', 60) } 1, 2;

# What a session gets to see, in the order in which it asks; rows of one answer have no order.
sub changes
{
	my ($table) = @_;
	my @seen;
	my $do = sub { push @seen, join('; ', sort split(/; /, $one->ask($_[0]))) };

	for my $i (1 .. 40)
	{
		# in one transaction, with a part undone, by TID, and after a lock
		$do->('BEGIN');
		$do->("UPDATE $table SET n = n + 1, note = '$i' RETURNING id, n");
		$do->("SAVEPOINT s; UPDATE $table SET n = -1; ROLLBACK TO s");
		$do->("SELECT id, n, note FROM $table WHERE id % 2 = $i % 2 FOR UPDATE");
		$do->("UPDATE $table SET n = n + 1 WHERE ctid = (SELECT ctid FROM $table WHERE id = 1 + $i % 5) RETURNING id, n, note");
		$do->("DECLARE c CURSOR FOR SELECT * FROM $table WHERE id = 2 FOR UPDATE; FETCH c");
		$do->("UPDATE $table SET n = n + 10 WHERE CURRENT OF c RETURNING n");
		$do->('CLOSE c; COMMIT');

		# one that waits for another
		$one->ask('BEGIN');
		$do->("UPDATE $table SET n = n + 1 WHERE id = 3 RETURNING n");
		$two->send("UPDATE $table SET n = n + 100 WHERE id = 3 RETURNING n");
		eventually(sub { $standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) eq '1' })
			or die 'nobody waits';
		$do->($i % 2 ? 'COMMIT' : 'ROLLBACK');
		push @seen, $two->answer;
	}
	$do->("SELECT * FROM $table ORDER BY id");
	$do->("SELECT rank() OVER (PARTITION BY id ORDER BY seq), op, id, old_n, new_n FROM log_$table");
	return join("\n", @seen);
}

my ($seen, $right) = map { changes($tables{$_}) } qw(orbit heap);
is($seen, $right, 'after the promotion the same as with heap');
unlike($right, qr/ERROR/, '... without an error');
is(problems(), 'none', 'orbit_verify()');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM t AS a JOIN h AS b USING (id, n, note)}), 5, 'the tables are equal');

$standby->stop;
done_testing();
