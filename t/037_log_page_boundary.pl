# A position in the WAL at the end of a page has two forms: there, where a record ends,
# and behind the next page's header, where the next one begins.  Records of orbit tables
# and commits are made to end there, at pages' and at segments' ends: flushes, checkpoints
# and recoveries then know what they hold, and ask for no more of the log than there is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use OrbitNode qw(orbit_node worker_pid kill_all_and_start);
use OrbitNumbers qw(create_numbers insert_to summary expected);

# Nobody but the test's own session writes to the log.
my $node = orbit_node(
	'main', { allows_streaming => 0, extra => ['--wal-segsize=1'] },
	'synchronous_commit = off', 'autovacuum = off', q{orbit.flush_interval = '1h'}, q{checkpoint_timeout = '1h'},
	'fsync = off');
my %boundary = (page => 8192, segment => 1024 * 1024);

sub query { return $node->safe_psql('postgres', $_[0]) }

create_numbers($node);
query(
	q{
CREATE FUNCTION lsn() RETURNS BIGINT LANGUAGE sql AS $$ SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint $$;
-- Writes to the log so that a record of so many bytes ends at the next multiple of unit.
CREATE FUNCTION leave_room(room INT, unit INT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	-- of a record with a long message: header, data header, message header, "x\0"
	fixed CONSTANT INT := 24 + 5 + 24 + 2;
	rest INT;
BEGIN
	LOOP
		rest := unit - lsn() % unit;
		-- the last record must not begin on the page before
		IF rest > 8192 THEN
			PERFORM pg_logical_emit_message(false, 'x', repeat('y', least(rest - 8000, 100000)));
		ELSIF rest - room < fixed + 256 THEN
			PERFORM pg_logical_emit_message(false, 'x', repeat('y', rest));
		ELSE
			EXIT;
		END IF;
	END LOOP;
	PERFORM pg_logical_emit_message(false, 'x', repeat('y', rest - room - fixed));
END $$;
});

my ($session, $rows, $row_bytes, $commit_bytes);

sub lsn { return $session->query_safe('SELECT lsn()') }

sub insert
{
	$rows++;
	return "INSERT INTO t VALUES ($rows, repeat('x', 50))";
}

# Bytes that the statement logs: none of the pages' headers among them.
sub measure
{
	my ($sql) = @_;
	$session->query_safe('SELECT leave_room(1000, 8192)');
	my $before = lsn();
	$session->query_safe($sql);
	return lsn() - $before;
}

sub open_session
{
	$session = $node->background_psql('postgres');
	$session->query_safe('BEGIN');
	# whatever a session logs at its first row comes first
	$session->query_safe(insert()) for 1, 2;
	$row_bytes = measure(insert());
	$commit_bytes = measure('COMMIT');
	return;
}

# Runs a statement whose one record ends at a boundary.
sub end_at
{
	my ($what, $unit, $bytes, $sql) = @_;
	$session->query_safe("SELECT leave_room($bytes, $boundary{$unit})");
	$session->query_safe($sql);
	is(lsn() % $boundary{$unit}, $unit eq 'page' ? 24 : 40, $what);
	return;
}

sub begin_with_row_at
{
	my ($unit) = @_;
	$session->query_safe('BEGIN');
	end_at("a row's record ends at a ${unit}'s end", $unit, $row_bytes, insert());
	return;
}

sub flushed_to { return query(q{SELECT (flushed_lsn - '0/0') % 8192 FROM orbit_stat_storage()}) }

sub crash
{
	my ($what) = @_;
	kill_all_and_start($node);
	eval { $session->quit };
	is(summary($node), expected($rows), "$what: rows");
	open_session();
	return;
}

open_session();
note("a row is $row_bytes bytes of the log, a commit $commit_bytes");
my $pid;
for my $unit ('page', 'segment')
{
	# ---- a write buffer's last record -----------------------------------------------------

	# Nothing follows it in the log.
	$pid = worker_pid($node);
	begin_with_row_at($unit);
	query('SELECT orbit_flush()');
	is(flushed_to(), 0, "$unit: it was flushed up to there");
	$rows--;
	crash("$unit, the last of the log, not committed");

	# A record follows, in the next write buffer.
	$pid = worker_pid($node);
	begin_with_row_at($unit);
	query('SELECT orbit_flush()');
	$session->query_safe(insert());
	$session->query_safe('COMMIT; CHECKPOINT');
	$session->query_safe(insert());
	query('SELECT orbit_flush()');
	is(worker_pid($node), $pid, "$unit: the worker has not failed");
	crash("$unit, another row, a checkpoint, a row, flushed");

	# It is flushed by recovery.
	begin_with_row_at($unit);
	$session->query_safe('SET LOCAL synchronous_commit = on; COMMIT');
	kill_all_and_start($node);
	eval { $session->quit };
	is(flushed_to(), 0, "$unit: recovery flushed up to there");
	is(summary($node), expected($rows), "$unit: rows after that");
	open_session();

	# A checkpoint's redo pointer is behind the header.
	$pid = worker_pid($node);
	begin_with_row_at($unit);
	query('CHECKPOINT');
	is(flushed_to(), 0, "$unit: the checkpoint flushed up to there");
	is(query('SELECT covered_redo = redo_lsn FROM orbit_stat_storage(), pg_control_checkpoint()'), 't',
		"$unit: and is covered");
	$session->query_safe('COMMIT; BEGIN; ' . insert() . '; COMMIT');
	query('CHECKPOINT');
	is(worker_pid($node), $pid, "$unit: the worker has not failed");
	crash("$unit, a checkpoint behind a row's record");

	# ---- a commit that is frozen ------------------------------------------------------------

	$pid = worker_pid($node);
	query('SELECT orbit_flush()');
	$session->query_safe('BEGIN; ' . insert());
	end_at("a commit ends at a ${unit}'s end", $unit, $commit_bytes, 'COMMIT');
	query('SELECT orbit_flush()');
	is(worker_pid($node), $pid, "$unit: the worker has not failed");
	crash("$unit, a commit, frozen");
}

$node->stop;
done_testing();
