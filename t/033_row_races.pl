# Races between two changes of one row.  A session is held at a stop point, between its
# reading of the row and its writing, while others change or lock the row or the write
# buffer is sealed and flushed; what it then does is what it would have done had it come
# later.  Also locks that are carried up a long chain, across a crash, and versions
# whose numbers run out under an old cursor.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use OrbitNode qw(orbit_node stop_at wait_stopped);
use OrbitSession;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $node = orbit_node('rows', 'autovacuum = off', q{orbit.flush_interval = '1h'},
	q{deadlock_timeout = '50ms'}, 'fsync = off', q{orbit.write_buffer_size = '1MB'});

# ---- sessions --------------------------------------------------------------------------

my %session;

sub open_session
{
	my ($name) = @_;
	$session{$name} = OrbitSession->new($node, 'postgres', $timeout);
	return;
}

sub send_sql
{
	my ($name, $sql) = @_;
	$session{$name}->send($sql);
	return;
}

# Rows joined by "; ".
sub answer
{
	my ($name) = @_;
	return $session{$name}->answer // BAIL_OUT("session $name does not answer");
}

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub wait_for
{
	my ($what, $query) = @_;
	$node->poll_query_until('postgres', $query) or BAIL_OUT($what);
	return;
}

# ---- scenarios ---------------------------------------------------------------------------

my @points = qw(row_insert row_update row_update_new_row row_delete row_lock row_read row_before_push);
my $release = 'SELECT ' . join(', ', map { "orbit_stop_point_clear('$_')" } @points);

my %command = (
	'stop' => sub { stop_at($node, $_[0]) },
	'held' => sub { wait_stopped($node, $_[0]) },
	'go' => sub { sql($release) },
	'flush' => sub { sql('SELECT orbit_flush()') },
	'waits' => sub {
		wait_for("$_[0] does not wait",
			"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $session{$_[0]}->pid);
	});

# A line is one of
#   NAME> SQL        runs it
#   NAME& SQL        begins it
#   NAME.            waits for what was begun
#   COMMAND WORD     see above
# The first and the third may end with "=> ROWS", what the session answers.
sub race
{
	my ($title, $steps) = @_;
	my (@got, @expected);
	for my $line (split /\n/, $steps)
	{
		next unless $line =~ /\S/;
		my ($step, $rows) = $line =~ /^\s*(.*?)\s*(?:=>\s*(.*?)\s*)?$/;
		if ($step =~ /^(\w+)& (.*)$/) { send_sql($1, $2) }
		elsif ($step =~ /^(\w+)(?:> (.*)|\.)$/)
		{
			my $name = $1;
			send_sql($name, $2) if defined $2;
			push @expected, "$step => " . ($rows // '');
			push @got, "$step => " . answer($name);
		}
		elsif ($step =~ /^(\w+)(?: (\w+))?$/ and $command{$1}) { $command{$1}->($2) }
		else { die "step: $line" }
	}
	is(join("\n", @got), join("\n", @expected), $title);
	sql($release);
	for my $name (sort keys %session)
	{
		send_sql($name, 'ROLLBACK; RESET ALL');
		answer($name);
	}
	sql(q{TRUNCATE ru; INSERT INTO ru VALUES (1, 'x', 1), (2, 'y', 2)});
	return;
}

$node->safe_psql(
	'postgres', q{
CREATE TABLE ru (id INT PRIMARY KEY, v TEXT, n INT) USING orbit;
ALTER TABLE ru ALTER v SET STORAGE EXTERNAL;
CREATE INDEX ON ru (n);
INSERT INTO ru VALUES (1, 'x', 1), (2, 'y', 2);
CREATE TABLE ra (id INT PRIMARY KEY, v INT) USING orbit;
CREATE TABLE rb (id INT PRIMARY KEY, v INT) USING orbit;
-- values that the TOAST table holds for somebody
CREATE FUNCTION toasted() RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
	n BIGINT;
BEGIN
	EXECUTE (SELECT format('SELECT count(DISTINCT chunk_id) FROM %s', reltoastrelid::regclass)
		FROM pg_class WHERE oid = 'ru'::regclass) INTO n;
	RETURN n;
END $$;
});
open_session($_) for 's1', 's2', 's3';

# ---- an update in place --------------------------------------------------------------------

for my $with_flush ('', "flush\n")
{
	my $name = $with_flush ? ', then flushed' : '';
	race("update in place, overtaken by an update that makes a new row$name", qq{
		stop row_update
		s1& UPDATE ru SET v = v || '1' WHERE id = 1 RETURNING *
		held row_update
		s2> UPDATE ru SET n = n + 100 WHERE id = 1
		${with_flush}go
		s1. => 1|x1|101
		s1> SELECT * FROM ru ORDER BY id => 1|x1|101; 2|y|2});
	race("update in place, overtaken by one of the key$name", qq{
		stop row_update
		s1& UPDATE ru SET v = v || '1' WHERE id = 1 RETURNING *
		held row_update
		s2> UPDATE ru SET id = 8 WHERE id = 1
		${with_flush}go
		s1. =>
		s1> SELECT * FROM ru ORDER BY id => 2|y|2; 8|x|1});
	race("update in place, overtaken by a delete$name", qq{
		stop row_update
		s1& UPDATE ru SET v = v || '1' WHERE id = 1 RETURNING *
		held row_update
		s2> DELETE FROM ru WHERE id = 1
		${with_flush}go
		s1. =>
		s1> SELECT * FROM ru ORDER BY id => 2|y|2});
	race("the same in REPEATABLE READ$name", qq{
		stop row_update
		s1> BEGIN ISOLATION LEVEL REPEATABLE READ
		s1& UPDATE ru SET v = v || '1' WHERE id = 1 RETURNING *
		held row_update
		s2> DELETE FROM ru WHERE id = 1
		${with_flush}go
		s1. => ERROR:  could not serialize access due to concurrent delete});
	for my $end ([ 'COMMIT', '1|x1|101' ], [ 'ROLLBACK', '1|x1|1' ])
	{
		race("update in place, overtaken by an update that ends with $end->[0]$name", qq{
			stop row_update
			s1& UPDATE ru SET v = v || '1' WHERE id = 1 RETURNING *
			held row_update
			s2> BEGIN
			s2> UPDATE ru SET n = n + 100 WHERE id = 1
			${with_flush}go
			waits s1
			s2> $end->[0]
			s1. => $end->[1]
			s1> SELECT * FROM ru WHERE n = (SELECT n FROM ru WHERE id = 1) => $end->[1]});
	}
	for my $lock ('UPDATE', 'NO KEY UPDATE', 'SHARE')
	{
		race("update in place, overtaken by FOR $lock$name", qq{
			stop row_update
			s1& UPDATE ru SET v = v || '1' WHERE id = 1 RETURNING *
			held row_update
			s2> BEGIN
			s2> SELECT id FROM ru WHERE id = 1 FOR $lock => 1
			${with_flush}go
			waits s1
			s2> UPDATE ru SET v = v || '2' WHERE id = 1
			s2> COMMIT
			s1. => 1|x21|1});
	}
	for my $update ([ 'in place', 'row_update', q{v = v || '1'}, '1|x1|1' ],
		[ 'to a new row', 'row_update_new_row', 'n = n + 10', '1|x|11' ])
	{
		race("FOR KEY SHARE comes before an update $update->[0], and goes on to hold$name", qq{
			stop $update->[1]
			s1> BEGIN
			s1& UPDATE ru SET $update->[2] WHERE id = 1 RETURNING *
			held $update->[1]
			s2> BEGIN
			s2> SELECT id FROM ru WHERE id = 1 FOR KEY SHARE => 1
			${with_flush}go
			s1. => $update->[3]
			s1> COMMIT
			s3& DELETE FROM ru WHERE id = 1 RETURNING *
			waits s3
			s2> COMMIT
			s3. => $update->[3]
			s1> SELECT * FROM ru => 2|y|2});
	}
}

# ---- an update that makes a new row, a delete ------------------------------------------------------

race('update to a new row, overtaken by one in place', q{
	stop row_update_new_row
	s1& UPDATE ru SET n = n + 10 WHERE id = 1 RETURNING *
	held row_update_new_row
	s2> UPDATE ru SET v = v || '2' WHERE id = 1
	go
	s1. => 1|x2|11
	s1> SET enable_seqscan = off
	s1> SELECT * FROM ru WHERE n BETWEEN 0 AND 1000 ORDER BY n => 2|y|2; 1|x2|11});
race('update of the key, overtaken by FOR KEY SHARE', q{
	stop row_update_new_row
	s1& UPDATE ru SET id = 7 WHERE id = 1 RETURNING *
	held row_update_new_row
	s2> BEGIN
	s2> SELECT id FROM ru WHERE id = 1 FOR KEY SHARE => 1
	go
	waits s1
	s2> COMMIT
	s1. => 7|x|1
	s1> SELECT * FROM ru ORDER BY id => 2|y|2; 7|x|1});
race('update of the key of a row that is held by two', q{
	s2> BEGIN
	s2> SELECT id FROM ru WHERE id = 1 FOR KEY SHARE => 1
	s3> BEGIN
	s3> SELECT id FROM ru WHERE id = 1 FOR SHARE => 1
	s1& UPDATE ru SET id = 7 WHERE id = 1 RETURNING *
	waits s1
	s3> COMMIT
	flush
	waits s1
	s2> UPDATE ru SET v = v || '2' WHERE id = 1 RETURNING * => 1|x2|1
	s2> COMMIT
	s1. => 7|x2|1});
race('delete, overtaken by an update in place', q{
	stop row_delete
	s1& DELETE FROM ru WHERE id = 1 RETURNING *
	held row_delete
	s2> UPDATE ru SET v = v || '2' WHERE id = 1
	go
	s1. => 1|x2|1});
race('delete, overtaken by an update to a new row', q{
	stop row_delete
	s1& DELETE FROM ru WHERE n = 1 RETURNING *
	held row_delete
	s2> UPDATE ru SET n = 3 WHERE id = 1
	go
	s1. =>
	s1> SELECT * FROM ru ORDER BY id => 1|x|3; 2|y|2});
race('delete, overtaken by FOR KEY SHARE', q{
	stop row_delete
	s1& DELETE FROM ru WHERE id = 1 RETURNING *
	held row_delete
	s2> BEGIN
	s2> SELECT id FROM ru WHERE id = 1 FOR KEY SHARE => 1
	go
	waits s1
	s2> COMMIT
	s1. => 1|x|1});

# ---- locks -----------------------------------------------------------------------------------------

race('FOR UPDATE, overtaken by an update in place', q{
	stop row_lock
	s1> BEGIN
	s1& SELECT * FROM ru WHERE id = 1 FOR UPDATE
	held row_lock
	s2> UPDATE ru SET v = v || '2' WHERE id = 1
	go
	s1. => 1|x2|1
	s2& UPDATE ru SET v = v || '3' WHERE id = 1 RETURNING *
	waits s2
	s1> COMMIT
	s2. => 1|x23|1});
race('FOR UPDATE, overtaken by an update to a new row', q{
	stop row_lock
	s1> BEGIN
	s1& SELECT * FROM ru WHERE id = 1 FOR UPDATE
	held row_lock
	s2> UPDATE ru SET n = n + 100 WHERE id = 1
	flush
	go
	s1. => 1|x|101
	s2> SELECT id FROM ru FOR UPDATE SKIP LOCKED => 2
	s2> SELECT id FROM ru WHERE id = 1 FOR UPDATE NOWAIT => ERROR:  could not obtain lock on row in relation "ru"});
race('FOR UPDATE, overtaken by a delete', q{
	stop row_lock
	s1& SELECT * FROM ru WHERE id = 1 FOR UPDATE
	held row_lock
	s2> DELETE FROM ru WHERE id = 1
	go
	s1. =>});
race('FOR KEY SHARE, overtaken by an update to a new row: that is locked too', q{
	stop row_lock
	s1> BEGIN
	s1& SELECT * FROM ru WHERE id = 1 FOR KEY SHARE
	held row_lock
	s2> BEGIN
	s2> UPDATE ru SET n = n + 100 WHERE id = 1
	go
	s1. => 1|x|1
	s2> COMMIT
	s3& DELETE FROM ru WHERE id = 1 RETURNING *
	waits s3
	s1> COMMIT
	s3. => 1|x|101});
race('FOR KEY SHARE, overtaken by two such updates', q{
	stop row_lock
	s1> BEGIN
	s1& SELECT * FROM ru WHERE id = 1 FOR KEY SHARE
	held row_lock
	s2> UPDATE ru SET n = n + 100 WHERE id = 1
	s2> UPDATE ru SET n = n + 100 WHERE id = 1
	go
	s1. => 1|x|1
	s3& DELETE FROM ru WHERE id = 1 RETURNING *
	waits s3
	s1> COMMIT
	s3. => 1|x|201});

# ---- the write buffer is sealed between reading and writing ---------------------------------------

for my $change (
	[ q{UPDATE ru SET v = v || '1' WHERE id = 1}, '1|x1|1; 2|y|2' ],
	[ 'UPDATE ru SET n = n + 10 WHERE id = 1', '1|x|11; 2|y|2' ],
	[ 'DELETE FROM ru WHERE id = 1', '2|y|2' ],
	[ q{INSERT INTO ru VALUES (1, 'z', 5) ON CONFLICT (id) DO UPDATE SET v = ru.v || excluded.v}, '1|xz|1; 2|y|2' ])
{
	race("flushed in between: $change->[0]", qq{
		stop row_before_push
		s1& $change->[0]
		held row_before_push
		flush
		go
		s1. =>
		s1> SELECT * FROM ru ORDER BY id => $change->[1]});
}

# ---- ON CONFLICT --------------------------------------------------------------------------------------

my $upsert = q{INSERT INTO ru VALUES (1, repeat('1', 5000), 1) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = ru.n + excluded.n RETURNING id, length(v), n};
my $take = 'UPDATE ru SET id = 1 WHERE id = 2';

race('a conflict that comes late: the killed row leaves nothing in the TOAST table', qq{
	s2> DELETE FROM ru WHERE id = 1
	stop row_insert
	s1& $upsert
	held row_insert
	s2> $take
	go
	s1. => 1|5000|3
	s1> SELECT id, length(v), n FROM ru => 1|5000|3
	s1> SELECT toasted() => 1});
race('the same with DO NOTHING', qq{
	s2> DELETE FROM ru WHERE id = 1
	stop row_insert
	s1& INSERT INTO ru VALUES (1, repeat('1', 5000), 1) ON CONFLICT DO NOTHING RETURNING id
	held row_insert
	s2> $take
	flush
	go
	s1. =>
	s1> SELECT * FROM ru => 1|y|2
	s1> SELECT toasted() => 0});
race('the same, and the statement is undone', qq{
	s2> DELETE FROM ru WHERE id = 1
	s1> BEGIN; SAVEPOINT a
	stop row_insert
	s1& $upsert
	held row_insert
	s2> $take
	go
	s1. => 1|5000|3
	flush
	s1> ROLLBACK TO a
	s1> SELECT * FROM ru => 1|y|2
	s1> COMMIT
	s1> SELECT toasted() => 0});
for my $end ([ 'COMMIT', '1|5000|3', '1|5000|3' ], [ 'ROLLBACK', '1|5000|1', '1|5000|1; 2|1|2' ])
{
	race("a conflict with a row that ends with $end->[0]", qq{
		s2> DELETE FROM ru WHERE id = 1
		stop row_insert
		s1& $upsert
		held row_insert
		s2> BEGIN
		s2> $take
		go
		waits s1
		flush
		s2> $end->[0]
		s1. => $end->[1]
		s1> SELECT id, length(v), n FROM ru ORDER BY id => $end->[2]
		s1> SELECT toasted() => 1});
}

# ---- values in the TOAST table ------------------------------------------------------------------------------

race('a wide value is stored, overtaken by an update to a new row', q{
	stop row_lock
	s1& UPDATE ru SET v = repeat('b', 7000), n = n + 1 WHERE id = 1 RETURNING id, length(v), n
	held row_lock
	s2> UPDATE ru SET n = n + 100 WHERE id = 1
	flush
	go
	s1. => 1|7000|102
	s1> SELECT id, left(v, 1), length(v), n FROM ru ORDER BY id => 1|b|7000|102; 2|y|1|2
	s1> SELECT toasted() => 1});
race('a wide value is replaced, overtaken by a delete', q{
	s2> UPDATE ru SET v = repeat('a', 6000) WHERE id = 1
	stop row_lock
	s1& UPDATE ru SET v = repeat('b', 7000), n = n + 1 WHERE id = 1 RETURNING id, length(v), n
	held row_lock
	s2> BEGIN
	s2> DELETE FROM ru WHERE id = 1
	flush
	go
	waits s1
	s2> ROLLBACK
	s1. => 1|7000|2
	s1> SELECT id, left(v, 1), length(v), n FROM ru ORDER BY id => 1|b|7000|2; 2|y|1|2
	s1> SELECT toasted() => 1});
race('a wide value is replaced, held before the write', q{
	s2> UPDATE ru SET v = repeat('a', 6000) WHERE id = 1
	stop row_update
	s1& UPDATE ru SET v = repeat('b', 7000) WHERE id = 1 RETURNING id, length(v), n
	held row_update
	s2& UPDATE ru SET n = n + 100 WHERE id = 1
	waits s2
	flush
	s3> SELECT left(v, 1), length(v) FROM ru WHERE id = 1 => a|6000
	go
	s1. => 1|7000|1
	s2. =>
	s1> SELECT id, left(v, 1), length(v), n FROM ru ORDER BY id => 1|b|7000|101; 2|y|1|2
	s1> SELECT toasted() => 1});

# ---- serializable transactions ------------------------------------------------------------------------------

my $serializable = 'BEGIN ISOLATION LEVEL SERIALIZABLE';
my $failed = 'ERROR:  could not serialize access due to read/write dependencies among transactions';
my $rows = 'TRUNCATE ra, rb; INSERT INTO ra VALUES (1, 0); INSERT INTO rb VALUES (1, 0)';

for my $write ('UPDATE ra SET v = 2', 'DELETE FROM ra', 'UPDATE ra SET id = 2')
{
	race("a reader is held before it locks what it read: $write", qq{
		s3> $rows
		s1> SET enable_seqscan = off; SET enable_bitmapscan = off; $serializable
		s2> SET enable_indexscan = off; SET enable_bitmapscan = off; $serializable
		s2> SELECT v FROM rb => 0
		stop row_read
		s1& SELECT v FROM ra WHERE id = 1
		held row_read
		s2> $write
		s2> COMMIT
		go
		s1. => 0
		s1> UPDATE rb SET v = 1 WHERE id = 1 => $failed
		s1> COMMIT});
}
race('the same, and a flush', qq{
	s3> $rows
	s1> SET enable_seqscan = off; SET enable_bitmapscan = off; $serializable
	s2> SET enable_indexscan = off; SET enable_bitmapscan = off; $serializable
	s2> SELECT v FROM rb => 0
	stop row_read
	s1& SELECT v FROM ra WHERE id = 1
	held row_read
	s2> UPDATE ra SET v = 2
	go
	s1. => 0
	flush
	s1> UPDATE rb SET v = 1 WHERE id = 1
	s2> COMMIT
	s1> COMMIT => $failed});
race('a writer is held before it publishes', qq{
	s3> $rows
	s1> SET enable_seqscan = off; SET enable_bitmapscan = off; $serializable
	s2> SET enable_indexscan = off; SET enable_bitmapscan = off; $serializable
	s2> SELECT v FROM rb => 0
	stop row_update
	s2& UPDATE ra SET v = 2
	held row_update
	s1> SELECT v FROM ra WHERE id = 1 => 0
	s1> DELETE FROM rb WHERE id = 1
	s1> COMMIT
	go
	s2. => $failed
	s2> COMMIT});

# ---- many versions ------------------------------------------------------------------------------------------------

# An old cursor sees its version of a row while others are made, in place as far as numbers
# go (127 to 128, 254 to 0), then in a new row.
for my $flush ('', 'PERFORM orbit_flush();')
{
	for my $updates (126, 127, 128, 253, 254, 255, 256, 600)
	{
		race("a cursor, $updates updates after it" . ($flush ? ' with flushes' : ''), qq{
			s1> BEGIN
			s1> DECLARE c CURSOR FOR SELECT id, v FROM ru ORDER BY id
			s2> DO 'BEGIN FOR i IN 1 .. $updates LOOP UPDATE ru SET v = i WHERE id = 1; IF i % 50 = 0 THEN $flush COMMIT; END IF; END LOOP; END'
			s1> FETCH c => 1|x
			s1> SELECT id, v FROM ru WHERE id = 1 => 1|$updates
			s1> UPDATE ru SET v = v || '+' WHERE CURRENT OF c RETURNING id, v => 1|$updates+
			s1> FETCH c => 2|y
			s1> COMMIT
			s3> SELECT id, v FROM ru ORDER BY id => 1|$updates+; 2|y
			s3> SET enable_seqscan = off
			s3> SELECT id, v FROM ru WHERE n = 1 => 1|$updates+});
	}
}

# ---- locks that are carried up a chain, and a crash ----------------------------------------------------------------

sub crash
{
	$node->stop('immediate');
	$node->start;
	%session = ();
	open_session($_) for 's1', 's2', 's3';
	return;
}

for my $flush (0, 1)
{
	for my $new_rows (0, 1)
	{
		my $title = "two prepared lockers, 60 updates" . ($new_rows ? ' to new rows' : '') . ($flush ? ', flushes' : '');
		my $set = $new_rows ? 'n = n + 1' : q{v = 'w'};
		sql(q{BEGIN; SELECT FROM ru WHERE id = 1 FOR KEY SHARE; PREPARE TRANSACTION 'p1'});
		sql(q{BEGIN; SAVEPOINT a; SELECT FROM ru WHERE id = 1 FOR KEY SHARE; RELEASE a; PREPARE TRANSACTION 'p2'});
		for my $i (1 .. 60)
		{
			sql("UPDATE ru SET $set WHERE id = 1");
			sql('SELECT orbit_flush()') if $flush and $i % 13 == 0;
		}
		crash();
		my $row = sql('SELECT * FROM ru WHERE id = 1');
		race($title, qq{
			s1> UPDATE ru SET $set WHERE id = 1 AND false
			s1> SELECT * FROM ru WHERE id = 1 FOR NO KEY UPDATE NOWAIT => $row
			s1> SELECT * FROM ru WHERE id = 1 FOR UPDATE NOWAIT => ERROR:  could not obtain lock on row in relation "ru"
			s1& DELETE FROM ru WHERE id = 1 RETURNING *
			waits s1
			s2> COMMIT PREPARED 'p2'
			waits s1
			s2> COMMIT PREPARED 'p1'
			s1. => $row});
	}
}

$_->quit for values %session;
$node->stop;
done_testing();
